"use strict";
// Draws plotly figures into the page: title and note as text that wraps, a legend that goes below where the page is
// narrow, dark or light, and SVG and CSV of each. LOOK holds the colours that change in the dark.
const NARROW = 640, PRINT_WIDTH = 690;
let dark = matchMedia("(prefers-color-scheme: dark)").matches;

function recoloured(figure) {
  const text = JSON.stringify(figure);
  if (!dark) return JSON.parse(text);
  return JSON.parse(text.replace(/"(#[0-9A-Fa-f]{6}|white|rgba\([0-9.,]+\))"/g,
    (whole, shade) => JSON.stringify(LOOK[shade] || shade)));
}

function legendRows(data, width) {
  let across = 0, rows = 1;
  for (const trace of data) {
    if (trace.showlegend === false || !trace.name) continue;
    const length = 52 + 7.2 * String(trace.name).replace(/<[^>]*>/g, "").length;
    if (across + length > width && across) { rows += 1; across = 0; }
    across += length;
  }
  return across ? rows : 0;
}

function fitted(figure, width) {
  const {data, layout} = recoloured(figure);
  layout.title = {text: ""};
  layout.margin = {...layout.margin, t: 24};
  layout.width = width;
  layout.height = (layout.height || 460) - 50;
  const named = data.some(t => t.type === "heatmap");  // names below, of which none may be left out
  const legend = data.filter(t => t.showlegend !== false && t.name).length > 1 || layout.showlegend;
  if (width < NARROW) {
    layout.font = {...layout.font, size: 12};
    if (layout.yaxis && layout.yaxis.scaleanchor) layout.height = Math.min(layout.height, width + 40);  // maps are square
    layout.margin = {...layout.margin, l: 52, r: 12};
    for (const key of Object.keys(layout)) {
      if (!/^[xy]axis/.test(key)) continue;
      layout[key].automargin = true;
      if (layout[key].title) layout[key].title.font = {size: 11};
      if (key[0] === "x" && named) layout[key].tickangle = -50;
      else if (key[0] === "x") layout[key].nticks = 5;
      // Values that stand behind their bars need more room, as their letters do not shrink with the page.
      if (key[0] === "x" && layout.meta && layout.meta.values_behind) layout[key].range = [0, 1.5 * layout[key].range[1]];
    }
    for (const note of layout.annotations || []) if (note.font) note.font.size = 11;
    if (legend) {
      const groups = new Set(data.map(t => t.legendgrouptitle && t.legendgrouptitle.text).filter(Boolean));
      const below = 21 * (groups.size ? data.length + groups.size + 1 : legendRows(data, width - 20));
      layout.legend = {...layout.legend, orientation: groups.size ? "v" : "h", x: 0, xanchor: "left", yref: "container",
        y: 0, yanchor: "bottom"};
      layout.height += below;
      layout.margin.b = (layout.margin.b || 65) + below;
    }
    for (const trace of data) if (trace.colorbar) {
      trace.colorbar.thickness = 10;
      trace.colorbar.title = {text: ""};
    }
  }
  return {data, layout};
}

function plainText(html) {
  const holder = document.createElement("div");
  holder.innerHTML = String(html).replace(/<[^>]*>/g, " ");
  return holder.textContent;
}

function save(name, href) {
  const link = document.createElement("a");
  link.download = name;
  link.href = href;
  link.click();
}

function csvOf(plot) {
  const quoted = value => value === null || value === undefined ? "" : /[",\n]/.test(String(value)) ?
    '"' + String(value).replaceAll('"', '""') + '"' : String(value);
  const lines = ["trace,x,y,base,z,error"];
  for (const trace of plot._fullData) {
    const name = plainText(trace.name || "");
    if (trace.type === "heatmap") {
      trace.z.forEach((row, i) => row.forEach((z, j) => lines.push([name, trace.x[j], trace.y[i], "", z, ""].map(quoted).join(","))));
      continue;
    }
    const error = (trace.error_x && trace.error_x.array) || [];
    const count = Math.max((trace.x || []).length, (trace.y || []).length);
    for (let i = 0; i < count; i++)
      lines.push([name, trace.x && trace.x[i], trace.y && trace.y[i], trace.base && trace.base[i], "", error[i]].map(quoted).join(","));
  }
  return lines.join("\n") + "\n";
}

function tools(holder, plot) {
  const line = document.createElement("p");
  line.className = "tools";
  const button = (label, act) => {
    const made = document.createElement("button");
    made.textContent = label;
    made.onclick = act;
    line.append(made);
  };
  const name = () => holder.dataset.name || "figure";
  button("SVG", async () => {
    const layout = {...holder.spec.layout, width: 900};
    const url = await Plotly.toImage({data: holder.spec.data, layout}, {format: "svg", width: 900, height: layout.height || 460});
    save(name() + ".svg", url);
  });
  button("CSV", () => save(name() + ".csv", URL.createObjectURL(new Blob([csvOf(plot)], {type: "text/csv"}))));
  return line;
}

function show(holder, spec, width) {
  holder.spec = spec;
  let plot = holder.querySelector(".plot");
  if (!plot) {
    holder.replaceChildren();
    const title = document.createElement("h3"), note = document.createElement("p");
    note.className = "note";
    plot = document.createElement("div");
    plot.className = "plot";
    holder.append(title, note, plot, tools(holder, plot));
  }
  const heading = spec.layout.title || {};
  holder.querySelector("h3").textContent = plainText(heading.text || "");
  holder.querySelector(".note").textContent = plainText((heading.subtitle || {}).text || "");
  const {data, layout} = fitted(spec, width || holder.clientWidth || 600);
  layout.uirevision = "kept";
  return Plotly.react(plot, data, layout, {displaylogo: false, displayModeBar: innerWidth < NARROW ? false : "hover"});
}

function redrawAll(width) {
  document.documentElement.classList.toggle("dark", dark);
  for (const holder of document.querySelectorAll(".figure")) if (holder.spec) show(holder, holder.spec, width);
}

function setDark(wanted) {
  dark = wanted;
  redrawAll();
}

let resizing;
addEventListener("resize", () => {
  clearTimeout(resizing);
  resizing = setTimeout(() => { if (!matchMedia("print").matches) redrawAll(); }, 150);
});
let darkBefore = dark;
addEventListener("beforeprint", () => {
  darkBefore = dark;
  dark = false;
  for (const part of document.querySelectorAll("details")) part.open = true;
  redrawAll(PRINT_WIDTH);
});
addEventListener("afterprint", () => setDark(darkBefore));
document.documentElement.classList.toggle("dark", dark);
