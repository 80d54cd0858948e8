"""Every method in every situation gets the right answer, and leaves the neighbours alone."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from kit.differences import load_differences
from kit.drivers import Driver, InProcess, Skipped, Socket
from kit.matrix import (
    DECLARED,
    FRAMES,
    SITUATIONS,
    Answers,
    Situation,
    World,
    ask,
    load_answers,
    make_users,
    write_answers,
)
from kit.run import delete_declared

HERE = Path(__file__).parent
ANSWERS = load_answers(HERE / "matrix.txt")
DIFFERENCES = load_differences(HERE / "differences.toml")


@pytest.fixture(scope="module")
def rabbitmq(against: Socket | None) -> Socket | None:
    """RabbitMQ with the users of the matrix, if the run is against it."""
    if against is not None:
        try:
            make_users(against)
        except Skipped as reason:
            pytest.skip(str(reason))
    return against


@pytest.fixture
def driver(rabbitmq: Socket | None) -> Iterator[Driver]:
    if rabbitmq is None:
        own = InProcess()
        make_users(own)
        yield own
    else:
        yield rabbitmq
        delete_declared(rabbitmq, DECLARED)


@pytest.fixture(scope="module")
def recorded(request: pytest.FixtureRequest) -> Iterator[Answers]:
    """What was found, for ``--record``."""
    answers: Answers = {}
    yield answers
    path = request.config.getoption("--record", None)
    if path:
        write_answers(Path(path), answers)


@pytest.mark.parametrize("frame", FRAMES)
@pytest.mark.parametrize("situation", SITUATIONS, ids=lambda situation: situation.name)
def test_the_answer_is_right(
    situation: Situation, frame: str, driver: Driver, recorded: Answers
) -> None:
    expected = ANSWERS[situation.name, frame]
    if isinstance(driver, Socket):
        expected = DIFFERENCES.answers(f"matrix: {situation.name}: {frame}", expected)
    found = ask(World(driver, situation.whole_world), situation, frame)
    recorded[situation.name, frame] = found
    assert found == expected


def test_the_matrix_is_whole() -> None:
    assert ANSWERS.keys() == {(each.name, frame) for each in SITUATIONS for frame in FRAMES}
