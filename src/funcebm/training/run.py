"""The host's side of a run: chunk after chunk, and what is looked at between them."""

from __future__ import annotations

import os
import time
import warnings
from typing import Any, Callable, Iterator, Mapping, NamedTuple

import torch
from torch import Tensor

from .. import checks, random, tree
from .._chunks import advance, drive, largest, make_loop, sizes, sizes_by_the_clock, until_interrupted
from .._progress import postfix, progress_bar
from ..distributed.agreement import check_equal, digest, failing_together, patient, together
from ..distributed.mesh import Mesh, single
from ..distributed.optimizer import is_sharded, own_slices, whole_slices
from ..distributed.parameters import gathered, is_cut, layout_of, local
from ..energies._guarded import explained
from ..types import Key, Params, Tree
from ._cut import cut_of, described, whole_fit
from ._door import check_loss, check_options
from ._ranks import own_memory, share, shared_gradient, start_memory, whole_memory
from ._vectors import Vectors, vectors_of
from .checkpoint import restored, save
from .data import Rows, Stream, Taken, open_source
from .divergence import Streak, check_limits, ending, find_streak, is_bad, reason
from .result import Fit, Validated
from .step import Recipe, TrainState, begin, draw_noise, make_body, plain_gradient
from .validation import Validation, check_like, make_evaluate, run_out_of_patience, with_value

__all__ = ["Options", "run"]

_WEIGHT = 8  # of a step: callbacks come oftener than between chunks of chains
_CHECKPOINT_SECONDS = 30.0  # between two writes


class Options(NamedTuple):
    """The arguments of :func:`~funcebm.training.fit` that say how to run."""

    num_steps: int
    batch_size: int | None
    jit: bool
    progress: bool
    callback: Callable[[int, Params, dict[str, Tensor]], Any] | None
    chunk_size: int | None
    validation: Validation | None
    limits: Mapping[str, float] | None
    max_bad_steps: int | None
    checkpoint: str | os.PathLike[str] | None
    mesh: Mesh = single
    is_deterministic: bool = False


class _Anchor(NamedTuple):
    """What a chunk began with, where in the data each of its steps is (one more: the end), and the chunk before it."""

    state: TrainState
    rows: Tree
    step: int
    places: list[tuple[int, int]]
    earlier: _Anchor | None


class _Run:
    """Where a run is: the state, what was collected, and what it needs to make the next chunk."""

    def __init__(
        self, recipe: Recipe, options: Options, key: Key, params: Params, data: Any, hyper: Tree, resume: Fit | None
    ) -> None:
        key_init, self.key_steps, key_epochs = random.split(key, 3).unbind(0)
        place = (0, 0) if resume is None else (resume.epoch, resume.epoch_steps)
        device = tree.first(params).device
        self.recipe, self.options, self.hyper = recipe, options, hyper
        self.source: Rows | Stream = open_source(data, options.batch_size, key_epochs, device, place)
        checks.same_device(params=params, data=self.source.example, **({"hyper": hyper} if tree.leaves(hyper) else {}))
        whole = gathered(params)
        with explained(
            "an energy, or what else a loss calls,", "a whole batch", params=whole, data=self.source.example
        ):
            names = check_loss(recipe, key_init, whole, self.source, hyper)
        check_limits(options.limits, options.max_bad_steps, names)
        self.num_members = tree.batch_size(params) if recipe.is_ensemble else 1
        self.state = begin(recipe, key_init, params, self.source.example, hyper, whole)
        self.cut = cut_of(self.state, recipe.optimizer(hyper), options.mesh)
        loss, example = recipe.loss(hyper), self.source.example
        self.sharing = None
        if not recipe.is_ensemble:
            self.sharing = share(loss, key_init, whole, example, options.mesh, options.is_deterministic)
        if self.sharing is not None:
            self.recipe = recipe = recipe._replace(gradient=shared_gradient(self.sharing))
            self.state = self.state._replace(memory=start_memory(self.sharing, loss, key_init, whole, example))
        if self.cut is not None:
            self.state = local(self.state)
            gradient = self.cut.gradient(recipe.gradient or plain_gradient)
            self.recipe = recipe = recipe._replace(gradient=gradient, health=self.cut.health)
        self.step, self.place = 0, place
        self.metrics: list[dict[str, Tensor]] = []
        self.validated: Validated | tuple[()] = ()
        if resume is not None:
            self._go_on(resume)
        self.start = self.step
        is_indexed = isinstance(self.source, Rows)
        vectors = self._vectors()
        if vectors is not None:
            recipe = recipe._replace(gradient=vectors.gradient(recipe.gradient or plain_gradient))
        body = make_body(recipe, is_indexed, self.num_members)
        loop = make_loop(body, self.draw, jit=options.jit, name="training, its state")
        self.loop = loop if vectors is None else vectors.loop(loop)
        self.shared = (self.source.shared, hyper, self.key_steps, self.source.example)
        self.taken = Taken((), [], None)
        self.evaluate = None
        if options.validation is not None:
            check_like(options.validation, self.source.example)
            key_validation = random.fold_in(key_init, 1)
            self.evaluate = make_evaluate(recipe, options.validation, key_validation, hyper, options.jit)

    def _vectors(self) -> Vectors | None:
        """Vectors to train on; None in eager training, which gains nothing, of an ensemble, and where ranks share params."""
        is_plain = self.options.jit and not self.recipe.is_ensemble and self.sharing is None and self.cut is None
        return vectors_of(self.state, self.recipe.optimizer(self.hyper)) if is_plain else None

    def _go_on(self, resume: Fit) -> None:
        must = "resume must be a run of this model, with this loss and optimizer"
        fix = "Pass what fit was given for that run: the same params (as a tree), loss, optimizer and ema_decay."
        fields = TrainState._fields
        resume = resume if self.cut is None else self.cut.own_fit(resume)
        if self.sharing is not None:
            opt_state = own_slices(resume.opt_state, self.state.opt_state, self.options.mesh)
            resume = resume._replace(memory=own_memory(self.sharing, resume.memory), opt_state=opt_state)
        state = restored({name: getattr(resume, name) for name in fields}, self.state._asdict(), must, fix)
        self.state, self.step = TrainState(**state), resume.num_steps
        known = tree.map(lambda leaf: leaf[: resume.num_steps], resume.metrics)  # without bad steps that were gone back
        self.metrics = [known] if known else []
        self.validated = resume.validation

    def draw(self, shared: Tree, state: TrainState, steps: Tensor) -> Tree:
        """The noise of many steps."""
        return draw_noise(self.recipe, self.key_steps, self.num_members, self.source.example, steps, self.hyper)

    def most_steps(self) -> int:
        """How many steps a chunk may have."""
        if self.options.chunk_size is not None:
            return self.options.chunk_size
        noise = self.draw((), self.state, torch.zeros(1, dtype=torch.int64, device=self.key_steps.device))
        leaves = tree.leaves((noise, () if isinstance(self.source, Rows) else self.source.example))
        return largest(sum(leaf.numel() * leaf.element_size() for leaf in leaves), self.key_steps, _WEIGHT)

    def rows(self, steps: Tensor) -> Tree:
        """The rows of the next steps; fewer where something goes wrong, which is raised when these are done."""
        if self.taken.problem is None:
            self.taken = self.source.take(self.step, len(steps))
        if self.taken.problem is not None and not self.taken.places:
            raise self.taken.problem
        return self.taken.rows

    def again(self, state: TrainState, rows: Tree, first: int, last: int) -> tuple[TrainState, dict[str, Tensor]]:
        """The steps from the first to before the last, of rows that were taken before."""
        return advance(self.loop, self.shared, state, (first, last), self.key_steps, lambda steps: rows)

    def chunks(self, most: int) -> Iterator[tuple[TrainState, dict[str, Tensor]]]:
        """What the next steps give, chunk by chunk; data that end or go bad are an error after the last good step."""
        sizes = _cut(self, most)
        options: Any = {"first": self.step, "like": self.key_steps, "given": self.rows}
        for state, metrics, _ in drive(self.loop, self.shared, self.state, sizes, **options):
            yield state, metrics
            if self.taken.problem is not None:
                raise self.taken.problem

    def keep(self, state: TrainState, metrics: dict[str, Tensor], places: list[tuple[int, int]]) -> None:
        """Makes the steps that were done the past."""
        self.state, self.step, self.place = state, self.step + len(places), places[-1]
        self.metrics.append(metrics)

    def go_back(self, anchor: _Anchor, step: int) -> None:
        """To how it was after ``step`` steps in all: the chunk that did more is done again, to there."""
        num = step - anchor.step
        if num > 0:
            rows = tree.map(lambda leaf: leaf[:num], anchor.rows)
            self.state = self.again(anchor.state, rows, anchor.step, step)[0]
        else:
            self.state = anchor.state
        self.place = anchor.places[num]
        surplus = self.step - step
        self.step, self.metrics = step, [tree.map(lambda leaf: leaf[: len(leaf) - surplus], self.joined())]

    def joined(self) -> dict[str, Tensor]:
        """The metrics of all steps."""
        return tree.map(lambda *parts: torch.cat(parts), *self.metrics) if self.metrics else {}

    def result(self, is_complete: bool = False, report: str = "", is_alone: bool = False) -> Fit:
        """All of it, as it is now; on ranks, what each of them remembers, too."""
        state = self.state
        if self.sharing is not None and not is_alone:
            opt_state = whole_slices(state.opt_state, self.options.mesh)
            state = state._replace(memory=whole_memory(self.sharing, state.memory), opt_state=opt_state)
        found = Fit(*state, self.joined(), self.step, is_complete, report, self.validated, *self.place)
        return found if self.cut is None else self.cut.dtensors(found)

    def is_whole_alone(self) -> bool:
        """Whether this rank has all that a file of the run needs."""
        is_remembered = self.sharing is not None and bool(tree.leaves(self.state.memory))
        is_shared = self.cut is not None or is_remembered or is_sharded(self.state.opt_state)
        return self.options.mesh.size == 1 or not is_shared

    def same(self) -> dict[str, Any]:
        """What must be the same on all ranks, by name: by some of it they speak to each other."""
        options, recipe, rows = self.options, self.recipe, tree.leaves(self.source.shared)
        numbers = (options.batch_size, options.chunk_size, options.jit, options.max_bad_steps, options.is_deterministic)
        return {
            "the first batch": self.source.example,
            "the shapes of the data": [tuple(leaf.shape) for leaf in rows],
            "num_steps": options.num_steps,
            "loss": recipe.loss(self.hyper),
            "optimizer": recipe.optimizer(self.hyper),
            "hyper and ema_decay": (self.hyper, recipe.ema_decay),
            "the run to resume": (self.start, () if self.cut is not None else self.state.params),
            "options": (*numbers, options.checkpoint is None, options.validation is None),
        }

    def whole(self, params: Params) -> Params:
        """Params as the loss sees them."""
        return params if self.cut is None else self.cut.params.whole(params)

    def as_given(self, params: Params) -> Params:
        """Params as the user gave them."""
        return params if self.cut is None else self.cut.params.dtensors(params)


def run(recipe: Recipe, options: Options, key: Key, params: Params, data: Any, hyper: Tree, resume: Fit | None) -> Fit:
    """A whole run: see :func:`~funcebm.training.fit`."""
    with together(options.mesh):
        random.check_key(key)
        layout_of(params, options.mesh)
        check_options(params, options, recipe.ema_decay)
        fix, right = (
            "Give what fit returned, or training.load(path, params).",
            resume is None or isinstance(resume, Fit),
        )
        checks.require(right, "resume must be a Fit", type(resume).__name__, fix, TypeError)
    with torch.no_grad():
        params, hyper = tree.map(torch.Tensor.detach, params), tree.map(torch.Tensor.detach, hyper)
        mesh = options.mesh
        with failing_together(mesh):
            news: dict[str, Any] = {}
            with together(mesh, news) as found:
                here = _Run(recipe, options, key.to(tree.first(params).device), params, data, hyper, resume)
                if mesh.size > 1:
                    given = {"key": key, "params": described(params) if is_cut(params) else params, **here.same()}
                    news.update(digests={name: digest(value) for name, value in given.items()})
            if mesh.size > 1:
                check_equal(mesh, found)
            if checks.is_traced((key, params, hyper, here.source.shared)):
                return _pure(here)
            return _driven(here)


def _driven(here: _Run) -> Fit:
    """A run that is looked at on the way; what ends it early is in its report."""
    options, report = here.options, "interrupted"
    try:
        with until_interrupted(), patient(options.mesh) as is_interrupted:
            report = _drive(here, is_interrupted)
    except BaseException as error:
        error.fit = result = here.result(report=f"ended by an error: {error}", is_alone=True)  # type: ignore[attr-defined]
        is_first = options.mesh.rank == 0 and here.is_whole_alone()  # of parts the last file is kept
        if options.checkpoint is not None and here.step > here.start and is_first:
            _save_end(result, options.checkpoint)
        raise
    result = here.result(here.step == here.start + options.num_steps, report)
    if options.checkpoint is not None and here.step > here.start:
        content = whole_fit(result)
        if options.mesh.rank == 0:
            _save_end(content, options.checkpoint)
    return result


def _save_end(result: Fit, path: str | os.PathLike[str]) -> None:
    """Writes the file; a full disk, say, does not cost the run."""
    try:
        save(result, path)
    except Exception as error:
        error.fit = result  # type: ignore[attr-defined]
        raise


def _pure(here: _Run) -> Fit:
    """A run as a function of tensors alone, which ``vmap`` and a compiler go through: nothing is looked at on the way."""
    checks.require(not here.options.jit, "fit must not compile inside a transform", "jit=True", "Pass jit=False.")
    for state, metrics in here.chunks(here.options.num_steps):
        here.keep(state, metrics, here.taken.places)
        _validate(here)
    return here.result(True)


def _drive(here: _Run, is_interrupted: Callable[[], bool]) -> str:
    """All chunks, with what is looked at between them; why the run has ended before its time, or the empty string."""
    options, end = here.options, here.start + here.options.num_steps
    streak, saved, num_skipped = Streak(0, 0), time.monotonic(), 0
    anchor: _Anchor | None = None
    last: _Anchor | None = None
    mesh = options.mesh
    with progress_bar(options.num_steps, "training", options.progress and mesh.rank == 0) as bar:
        for state, metrics in here.chunks(here.most_steps()):
            first, earlier = here.step, None if last is None else last._replace(earlier=None)
            last = _Anchor(here.state, here.taken.rows, first, [here.place, *here.taken.places], earlier)
            here.keep(state, metrics, here.taken.places)
            streak = find_streak(metrics, options.limits, first, streak, options.max_bad_steps)
            anchor = None if streak.num == 0 else last if anchor is None or streak.first >= first else anchor
            if anchor is not None and options.max_bad_steps is not None and streak.num >= options.max_bad_steps:
                return _diverged(here, anchor, streak)
            bar.update(here.step - first)
            if options.progress:
                num_skipped += int(metrics["skipped"].sum())
                bar.set_postfix(postfix(metrics, num_skipped))
            _validate(here)
            report = _wish_to_stop(here, metrics)
            if report and here.step < end:
                return report
            if mesh.size > 1 and here.step < end and is_interrupted():
                raise KeyboardInterrupt
            is_due = options.checkpoint is not None and time.monotonic() - saved > _CHECKPOINT_SECONDS
            if options.checkpoint is not None and mesh.agree(is_due and mesh.rank == 0):
                result, saved = whole_fit(here.result()), time.monotonic()
                if mesh.rank == 0:
                    save(result, options.checkpoint)
    report = ending(here.joined(), options.max_bad_steps)
    if report:
        warnings.warn(report, RuntimeWarning, stacklevel=4)
    return report


def _wish_to_stop(here: _Run, metrics: dict[str, Tensor]) -> str:
    """Of the callback, or for lack of progress; the empty string where there is none."""
    callback, validation = here.options.callback, here.options.validation
    if callback is not None and here.options.mesh.agree(
        _is_true(callback(here.step, here.as_given(here.state.params), metrics))
    ):
        return "stopped by its callback"
    return "" if validation is None else run_out_of_patience(here.validated, validation.patience)


def _is_true(answer: Any) -> bool:
    """Whether a callback says stop: True, of Python, NumPy or torch. Whatever else it may return says nothing."""
    is_flag = isinstance(answer, bool) or str(getattr(answer, "dtype", "")) in ("bool", "torch.bool")
    return is_flag and bool(answer)


def _validate(here: _Run) -> None:
    validation = here.options.validation
    if here.evaluate is None or validation is None or here.step % validation.every:
        return
    params = here.state.params if here.recipe.ema_decay is None else here.state.ema_params
    here.validated = with_value(here.validated, params, here.evaluate(here.whole(params)), here.step)


def _diverged(here: _Run, anchor: _Anchor, streak: Streak) -> str:
    """Goes back to the last good params, and says what was bad."""
    limits = here.options.limits
    seen, surplus = here.joined(), here.step - streak.first - streak.num
    why = reason(seen, limits, streak.first - here.step)  # counted from the end
    here.go_back(anchor, streak.first)
    before = anchor if streak.first > anchor.step else anchor.earlier
    if before is not None:
        # are the batch or the params bad? Evaluate these params on the previous, good batch
        index = streak.first - 1 - before.step
        rows = tree.map(lambda leaf: leaf[index : index + 1], before.rows)
        _, tried = here.again(here.state, rows, streak.first - 1, streak.first)
        if bool(is_bad(tried, limits).all()):
            here.go_back(before, streak.first - 1)
    here.metrics = [
        tree.map(lambda leaf: leaf[: len(leaf) - surplus], seen)
    ]  # the bad steps too: they show what happened
    report = (
        f"training diverged: {why} in step {streak.first} (counted from 0), and {streak.num} steps in a row were bad. The "
        f"params are the last good ones, those after {here.step} steps. Try a smaller learning rate, "
        "optimizers.clip_by_global_norm, or a smaller step_size of the sampler"
    )
    warnings.warn(report, RuntimeWarning, stacklevel=5)
    return report


def _cut(here: _Run, most: int) -> Iterator[int]:
    """How many steps each chunk has: at most ``most``, cut where there is a validation."""
    step, end, validation = here.step, here.step + here.options.num_steps, here.options.validation
    while step < end:
        part = end - step if validation is None else min(validation.every - step % validation.every, end - step)
        yield from sizes_by_the_clock(part, most) if _is_by_clock(here) else sizes(part, most)
        step += part


def _is_by_clock(here: _Run) -> bool:
    """Whether a run is eager, nobody counts its chunks, and no rank waits for another."""
    options = here.options
    is_free = options.chunk_size is None and options.callback is None and options.mesh.size == 1
    return is_free and not options.jit and not checks.is_traced((here.key_steps, here.state.params, here.shared))
