"""`alternate`: decentralised LoRA that speaks to some of its neighbours each round, another share every time."""

from dataclasses import replace

from dfl_example.entry import AlternateConfig
from dfl_ray.methods.averaged import AveragedParts
from dfl_ray.methods.shared import SharedAdapter


class Alternate(SharedAdapter):
    """One adapter a device; A and B are averaged with the neighbours heard of."""

    def __init__(self, context):
        super().__init__(context)
        assert isinstance(context.config, AlternateConfig)
        self.stride = context.config.stride
        self.parts = AveragedParts(context, self.layout)

    def begin(self, device, round_index):
        """Nothing but the exchange's own bookkeeping."""
        self.parts.begin(device, self.parts.whole)

    def keep(self, device, round_index):
        """Everything may change."""
        return None

    def outgoing(self, device, round_index):
        """A and B to this round's share of the neighbours."""
        found = self.parts.outgoing(device, self.parts.whole, round_index)
        first = round_index % self.stride
        mine = [replace(out, destinations=out.destinations[first :: self.stride]) for out in found]
        return [out for out in mine if out.destinations]

    def incoming(self, device, round_index, received, sent):
        """The average with what arrived."""
        return self.parts.incoming(device, self.parts.whole, round_index, received, sent)
