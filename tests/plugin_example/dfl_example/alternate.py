"""`alternate`: decentralised LoRA that speaks to some of its neighbours each round, another share every time."""

from dfl_ray.methods.averaged import AveragedParts
from dfl_ray.methods.exchange import ExchangeState
from dfl_ray.methods.shared import SharedAdapter


class Alternate(SharedAdapter):
    """One adapter a device; A and B are averaged with the neighbours heard of."""

    def __init__(self, context):
        super().__init__(context)
        self.parts = AveragedParts(context, self.layout)

    def memory(self, device):
        """What a device keeps: the state of its traffic law, residuals and push-sum masses."""
        return ExchangeState(self.law.start(device))

    def begin(self, device, round_index):
        """Nothing but the exchange's own bookkeeping."""
        self.parts.begin(device, self.parts.whole)

    def keep(self, device, round_index):
        """Everything may change."""
        return None

    def outgoing(self, device, round_index):
        """A and B, in the messages that the traffic law asks for."""
        return self.parts.outgoing(device, self.parts.whole, self.planned(device, round_index))

    def incoming(self, device, round_index, received, sent):
        """The average with what arrived."""
        return self.parts.incoming(device, self.parts.whole, round_index, received, sent)
