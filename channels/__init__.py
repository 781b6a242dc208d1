"""The radio: path loss, shadowing, fading, SINR, rates, scheduling, energy and the virtual clock.

Independent of the rest of the project and of Ray. Start at `channels.channel.Channel` (a round on the
virtual clock) or `channels.scheduling.plan` (a schedule over given gains).
"""
