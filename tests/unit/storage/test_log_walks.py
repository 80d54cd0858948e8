"""Random walks over a log that is written, settled, filled and jumps, on a disk that crashes."""

import random
from collections.abc import Awaitable, Callable
from functools import partial
from itertools import pairwise

import pytest

from amqpbroker.message import Origin
from amqpbroker.storage import wal
from amqpbroker.storage.check import checking
from amqpbroker.storage.disk_log import DiskLog
from amqpbroker.storage.format import decode_image, encode_image
from amqpbroker.storage.index_set import IndexSet
from amqpbroker.storage.runs import runs_of
from amqpbroker.storage.store import Store
from amqpbroker.testing.fakes import fake_origin
from amqpbroker.testing.log_contract import said
from amqpbroker.testing.sim_disk import SimCrash, SimDisk
from amqpbroker.testing.trace import Trace

Wait = Callable[[Callable[[], Awaitable[object]]], object]

ORIGINS = [
    fake_origin(routing_key="a", persistent=True),
    fake_origin(routing_key="b", persistent=True),
    fake_origin(routing_key="c"),
]


class Walk:
    """A log, and dicts of what it holds, and of what a crash must, and may, leave of it."""

    store: Store
    log: DiskLog

    def __init__(self, seed: int, wait: Wait) -> None:
        self.rng = random.Random(seed)
        self.wait = wait
        self.disk = SimDisk(random.Random(seed), Trace())
        self.waiting_bytes_max = self.rng.choice((0, 3000, 1 << 20))
        self.messages: dict[int, tuple[Origin, bytes]] = {}  # As told last, by index.
        self.live: set[int] = set()
        self.sure: set[int] = set()  # Kept, and not settled.
        self.unsure: set[int] = set()  # A crash may leave it, or not.
        self.filled: list[set[int]] = []
        self.open()

    def open(self) -> None:
        self.disk.restart()
        args = "/data", "rabbit@here", self.waiting_bytes_max, 77
        store = self.wait(partial(Store.open, self.disk, *args))
        assert isinstance(store, Store)
        store.wal.all_definitions = lambda: b"definitions\n"
        self.store, self.log = store, store.open_log(1)
        store.clear_up({1})

    # -- what happens --------------------------------------------------------------------------

    def message(self, origin: Origin, index: int) -> bytes:
        size = self.rng.choice((0, 10, 100)) if self.rng.random() < 0.1 else 10
        raw = b"%d." % index + bytes(size)
        self.messages[index] = origin, raw
        if origin.traits.persistent:
            self.unsure.add(index)
        self.live.add(index)
        return raw

    def append(self) -> None:
        log, origin = self.log, self.rng.choice(ORIGINS)
        end = log.end + self.rng.choice((1, 2, 30, 700, 1500))
        assert log.append(origin, [self.message(origin, i) for i in range(log.end, end)]) == end

    def some(self) -> range:
        """Some run of indexes below the end."""
        rng, end = self.rng, self.log.end
        near = rng.choice(sorted(self.live)) if self.live else 0
        start = max(0, near - rng.choice((0, 1, 50, 2000)))
        step = rng.choice((1, 1, 1, 2, 3, 64, 1000))
        return range(start, min(end, start + rng.choice((1, 2, 50, 1000, 4000)) * step), step)

    def gone(self, indexes: set[int]) -> None:
        self.live -= indexes
        self.unsure |= self.sure & indexes  # The news of its end may get lost.
        self.sure -= indexes
        for page in self.filled:
            page -= indexes

    def settle(self) -> None:
        there = sorted(self.live.intersection(self.some()))
        for run in runs_of(there) if there else ():
            self.log.settle(run)
        self.gone(set(there))

    def settle_live(self) -> None:
        run = self.some()
        there = self.live.intersection(run)
        assert self.log.settle_live(run) == len(there)
        self.gone(there)

    def skip(self) -> None:
        self.log.skip_to(self.log.end + self.rng.choice((0, 1, 30, 5000, 1 << 44)))

    def fill(self) -> None:
        """Put in messages that were there once, or never; some of them are there."""
        run = self.some()
        chosen = sorted(self.rng.sample(run, self.rng.randint(0, min(len(run), 1000))))
        if not chosen:
            return
        absent = set(chosen) - self.live
        lately = self.rng.choice(ORIGINS)
        messages: list[tuple[Origin, bytes]] = []
        for index in chosen:
            origin = self.messages[index][0] if index in self.messages else lately
            raw = self.messages[index][1] if index in self.messages else None
            if index in absent:
                raw = self.message(origin, index) if raw is None else raw
            assert raw is not None
            messages.append((origin, raw))
        self.live |= absent
        persistent = {i for i in absent if self.messages[i][0].traits.persistent}
        self.unsure |= persistent
        gone = bytearray(b"\1" * (chosen[-1] - chosen[0] + 1))
        for index in chosen:
            gone[index - chosen[0]] = 0
        origins, raws = [each[0] for each in messages], [each[1] for each in messages]
        image = decode_image(b"".join(encode_image(chosen[0], origins, raws, gone)))
        assert self.log.fill(image) == len(absent)
        self.filled.append(persistent)
        self.log.when_kept(partial(self.kept, persistent))

    def kept(self, page: set[int]) -> None:
        self.sure |= page
        self.unsure -= page

    def give_up(self) -> None:
        """Go on with another log of the same id, in which there is nothing yet."""
        end = self.log.end
        self.gone(set(self.live))
        self.filled = []
        self.log.delete()
        self.log = self.store.open_log(1)
        self.log.skip_to(end)

    def work(self) -> None:
        """Commit, or do a part of what is to be done beside."""
        store, log = self.store, self.log
        match self.rng.randrange(4):
            case 0 if store.wal.is_whole:
                self.wait(store.wal.begin_anew)
            case 1:
                self.wait(partial(store.tidy, is_idle=True))
            case 2 if store.has_work:
                self.wait(store.work_off)
            case _ if store.wal.has_gathered:
                self.wait(store.wal.commit)
        kept = {i for i in self.live & self.unsure if i < log.kept_end}
        self.sure |= kept.difference(*self.filled)
        if not store.wal.has_gathered:
            self.sure = {i for i in self.live if self.messages[i][0].traits.persistent}
            self.unsure = set()
            assert log.kept_end == log.end
        self.filled = [page for page in self.filled if page - self.sure]

    def crash(self) -> None:
        """Go on after a crash, perhaps in the midst of some work."""
        if self.rng.random() < 0.5:
            self.disk.crash_at(self.disk.calls + self.rng.randint(1, 4))
            try:
                for _ in range(20):
                    self.work()
            except SimCrash:
                pass
        self.disk.crash()
        self.go_on()

    def stop(self) -> None:
        """Go on after an orderly stop."""
        self.wait(self.store.stop)
        self.sure = {i for i in self.live if self.messages[i][0].traits.persistent}
        self.unsure = set()
        self.go_on()

    def go_on(self) -> None:
        self.disk.restart()
        with checking(self.disk, "/data") as check:
            report = check.log(1)
        self.open()
        found = [index for run in self.log.recovered for index in run]
        assert found == sorted(set(found))
        assert report.messages == len(found)
        assert not check.damages + self.store.damages + check.strange()
        assert self.sure <= set(found) <= self.sure | self.unsure, (
            sorted(self.sure - set(found))[:10],
            sorted(set(found) - self.sure - self.unsure)[:10],
        )
        self.live = self.sure = set(found)
        self.sure = set(found)
        self.unsure, self.filled = set(), []
        self.check(1.0)

    # -- what must hold ------------------------------------------------------------------------

    def check(self, share: float) -> None:
        log = self.log
        live = IndexSet()
        for run in runs_of(sorted(self.live)) if self.live else ():
            live.add(run)
        assert log.live() == live
        chunks = list(log._all_chunks())
        for one, other in pairwise(chunks):
            assert one.base + one.count <= other.base
        for run in live.runs():
            if self.rng.random() < share:
                self.read(run)

    def read(self, run: range) -> None:
        take = self.rng.choice((self.log.read, self.log.copy))
        while run:
            batch = take(run)
            there = [self.messages[index] for index in run[: len(batch.raws)]]
            assert batch.raws == [raw for _, raw in there]
            assert list(map(said, batch.origins)) == [said(origin) for origin, _ in there]
            assert batch.raws
            run = run[len(batch.raws) :]

    def step(self) -> None:
        acts = [self.append] * 4 + [self.settle, self.settle_live, self.skip] + [self.fill] * 3
        acts += [self.work] * 8
        dice = self.rng.random()
        if dice < 0.04:
            self.crash()
        elif dice < 0.06:
            self.stop()
        elif dice < 0.07:
            self.give_up()
        else:
            self.rng.choice(acts)()
        self.check(0.1)


SEEDS = [range(start, start + 10) for start in range(0, 60, 10)]


@pytest.mark.slow
@pytest.mark.parametrize("seeds", SEEDS, ids=str)
@pytest.mark.usefixtures("small_files")
def test_a_log_holds_what_it_was_given_and_keeps_what_it_has_said_is_kept(
    seeds: range, wait: Wait, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wal, "BATCH_BYTES_MAX", 5000)
    for seed in seeds:
        print("seed", seed)
        walk = Walk(seed, wait)
        for _ in range(80):
            walk.step()
        walk.crash()
