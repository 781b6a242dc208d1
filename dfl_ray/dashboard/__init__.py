"""The dashboard: a small server on 127.0.0.1 that shows run folders in the browser and only reads them."""
