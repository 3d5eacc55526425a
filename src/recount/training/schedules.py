"""Learning-rate schedules, as closed formulas of the position in training.

Checked against the rates of AdamHermes/GigaCount@d57191e, Yiming-M/CLIP-EBC@b52a594, niki-amini-naieni/CounTX@6e2af64
and SforAiDl/CountCLIP@a15672d (golden cases ``lr_schedule_*``, ``learning_rate``, ``scheduler_*``).
"""

import math

from recount.settings.recipe import Schedule


def learning_rate(schedule: Schedule, base: float, position: float, total: float) -> float:
    """Return the learning rate where ``position`` of ``total`` units are done; ``base`` is the optimiser's."""
    warmup = schedule.warmup * total if schedule.warmup < 1 else schedule.warmup
    match schedule.name:
        case "constant":
            return base
        case "step":
            return base * schedule.factor ** math.floor(position / schedule.period)
        case "step_at":
            return base * schedule.factor ** sum(position >= milestone for milestone in schedule.milestones)
        case "linear":
            return base + (schedule.minimum_lr - base) * position / total
        case "warmup_cosine":
            return _warmup_cosine(schedule, base, position, warmup, total)
        case "warmup_cosine_restarts":
            if position < warmup:
                return schedule.initial_lr + (base - schedule.initial_lr) * position / warmup
            return _cosine_restarts(schedule, base, position - warmup)
        case "decayed_cosine_restarts":
            cycle, done = divmod(position, schedule.period)
            peak = base * schedule.factor**cycle
            return _half_cosine(peak, min(schedule.minimum_lr, peak), done / schedule.period)
        case "sawtooth":
            return base * _sawtooth(int(position), schedule.period)


def steps_of(schedule: Schedule, epochs: int, steps_per_epoch: int) -> float:
    """Return how many units of the schedule a training run has."""
    return epochs * steps_per_epoch if schedule.unit == "step" else epochs


def position_of(schedule: Schedule, epoch: int, step: int, steps_per_epoch: int) -> float:
    """Return the schedule's position before step ``step`` of epoch ``epoch`` (both counted from 0)."""
    if schedule.unit == "step":
        return epoch * steps_per_epoch + step
    return epoch + (step / steps_per_epoch if schedule.unit == "fraction" else 0)


def _warmup_cosine(schedule: Schedule, base: float, position: float, warmup: float, total: float) -> float:
    warmup = math.floor(warmup) if schedule.unit == "step" else warmup
    if position < warmup:
        # whole steps count from 1, so that the first step is not lost; fractions of epochs start at the initial rate
        done = position + 1 if schedule.unit == "step" else position
        return schedule.initial_lr + (base - schedule.initial_lr) * done / warmup
    return _half_cosine(base, schedule.minimum_lr, (position - warmup) / (total - warmup))


def _cosine_restarts(schedule: Schedule, base: float, position: float) -> float:
    # Loshchilov and Hutter's warm restarts: cycle i lasts period * period_factor^i
    start, length = 0.0, float(schedule.period)
    while position >= start + length:
        start, length = start + length, length * schedule.period_factor
    return _half_cosine(base, schedule.minimum_lr, (position - start) / length)


def _sawtooth(step: int, period: int) -> float:
    # CountCLIP as coded: a third to one over ``period`` steps, then for ever cosine restarts one step ahead
    if step < period:
        return 1 / 3 + (2 / 3) * step / period
    return _half_cosine(1.0, 0.0, ((step - period + 1) % period) / period)


def _half_cosine(top: float, bottom: float, share: float) -> float:
    return bottom + (top - bottom) * (1 + math.cos(math.pi * share)) / 2
