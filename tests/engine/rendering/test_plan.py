from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from ldm_engine.rendering.jobs.identities import identify
from ldm_engine.rendering.jobs.rows import Task
from ldm_engine.rendering.plan import MIN_ROWS, Costs, plan_batches
from ldm_engine.sampling.settings import SETTINGS

VALUES = {
    **{setting.name: setting.default for setting in SETTINGS},
    **{"prompt": "", "seed": 0, "guidance_scale": 2.0, "height": 64, "width": 64},
}
COSTS = Costs(compile_s=1.0, image_step_s=0.01)

groups = st.lists(st.integers(0, 3), max_size=60)


def _tasks(groups):
    return [
        Task(identify(str(i)), i, {**VALUES, "num_inference_steps": 10 + group})
        for i, group in enumerate(groups)
    ]


def _plan(tasks, size, done=frozenset(), waiting=10_000):
    return list(plan_batches(tasks, size, COSTS, lambda t: t.row not in done, waiting))


@given(groups, st.integers(1, 7), st.integers(1, 20))
def test_every_image_is_in_one_batch_with_its_like(groups, size, waiting):
    tasks = _tasks(groups)
    batches = _plan(tasks, size, waiting=waiting)
    assert sorted(t.row for b in batches for t in b.tasks) == list(range(len(tasks)))
    for batch in batches:
        assert len({t.group for t in batch.tasks}) == 1
        assert len(batch.tasks) <= batch.rows <= size == batch.batch_size
        assert [t.row for t in batch.tasks] == sorted(t.row for t in batch.tasks)


@given(groups, st.integers(1, 7), st.sets(st.integers(0, 59)))
def test_what_is_done_changes_no_batch(groups, size, done):
    tasks = _tasks(groups)
    whole = {b.tasks[0].row: b for b in _plan(tasks, size)}
    for batch in _plan(tasks, size, done):
        before = whole[batch.tasks[0].row]
        assert (batch.tasks, batch.rows) == (before.tasks, before.rows)
        assert any(batch.wanted)
        assert batch.wanted == tuple(t.row not in done for t in batch.tasks)


def test_few_images_wait_at_a_time():
    """A million rows in as many groups stay out of memory."""
    taken = 0

    def tasks():
        nonlocal taken
        for task in _tasks(range(500)):
            taken += 1
            yield task

    for given_out, _ in enumerate(plan_batches(tasks(), 4, COSTS, lambda t: True, 20)):
        assert taken - given_out <= 21 or taken == 500


def test_padding_is_weighed_against_another_size():
    cheap = Costs(compile_s=1.0, image_step_s=0.001)
    assert cheap.rows(1, 8, 50) == 8  # 0.35 s of padding
    dear = Costs(compile_s=1.0, image_step_s=0.1)
    assert dear.rows(3, 8, 50) == 3
    assert dear.rows(1, 8, 50) == MIN_ROWS
    assert dear.rows(1, 1, 50) == 1
    assert Costs(None, 0.1).rows(3, 8, 50) == 8
