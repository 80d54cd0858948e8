"""How two nodes make each other's acquaintance, and how they do not."""

import random

import attrs
import msgspec
import pytest

from amqpbroker.cluster.hello import (
    HELLO_BYTES_MAX,
    MAGIC,
    NONCE_BYTES,
    Accepting,
    Dialling,
    Handshake,
    Identity,
)
from amqpbroker.cluster.wire import (
    CHALLENGE,
    HEAD_BYTES,
    HELLO,
    PROOF,
    REFUSAL,
    WELCOME,
    encode_frame,
)
from amqpbroker.errors import LinkFault, LinkRefused

SECRET = b"only the nodes have it"
A = Identity("shop", "rabbit@a", 3, SECRET)
B = Identity("shop", "rabbit@b", 7, SECRET)
NONCES = bytes(range(NONCE_BYTES)), bytes(range(100, 100 + NONCE_BYTES))
NEITHER = None
ADVICE = (
    "nodes read it in etcd when they start, so restart the one that was started before it was"
    " changed there"
)


def dial(own: Identity = B, node: str = "rabbit@a", incarnation: int = 3) -> Dialling:
    return Dialling(own, NONCES[0], node, incarnation)


def accept(own: Identity = A, members: dict[str, int] | None = None) -> Accepting:
    known = {"rabbit@b": 7} if members is None else members
    return Accepting(own, NONCES[1], known.get)


def shake(dialling: Handshake, accepting: Handshake) -> tuple[str | None, str | None]:
    """Let both talk until nothing is said; what each complains of."""
    complaints: list[str | None] = [None, None]
    moved = True
    while moved:
        moved = False
        for at, (one, other) in enumerate(((dialling, accepting), (accepting, dialling))):
            data = one.take_outbox()
            if data and complaints[1 - at] is None:
                moved = True
                try:
                    other.receive(data)
                except LinkFault as error:
                    complaints[1 - at] = str(error)
    return complaints[0], complaints[1]


def test_two_nodes_of_a_cluster_know_each_other_afterwards() -> None:
    dialling, accepting = dial(), accept()

    assert shake(dialling, accepting) == (NEITHER, NEITHER)

    assert dialling.is_done
    assert accepting.is_done
    assert (dialling.node, dialling.incarnation, dialling.version) == ("rabbit@a", 3, 1)
    assert (accepting.node, accepting.incarnation, accepting.version) == ("rabbit@b", 7, 1)


def test_a_hello_may_come_octet_by_octet() -> None:
    dialling, accepting = dial(), accept()
    one: Handshake = dialling
    other: Handshake = accepting
    while not (dialling.is_done and accepting.is_done):
        for octet in one.take_outbox():
            other.receive(bytes((octet,)))
        one, other = other, one


def test_frames_behind_the_hello_are_kept() -> None:
    dialling, accepting = dial(), accept()
    accepting.receive(dialling.take_outbox())
    dialling.receive(accepting.take_outbox())
    accepting.receive(dialling.take_outbox() + encode_frame(20, b"early"))
    dialling.receive(accepting.take_outbox() + encode_frame(21, b"answer"))

    assert accepting.inbox.next_frame() == (20, b"early")
    assert dialling.inbox.next_frame() == (21, b"answer")


def test_the_secret_does_not_travel_and_is_not_shown() -> None:
    dialling, accepting = dial(), accept()
    said = dialling.take_outbox()
    accepting.receive(said)
    said += accepting.take_outbox()

    assert SECRET not in said
    assert "only the nodes" not in repr(B)


# -- refusals ----------------------------------------------------------------------------------


def refused_there(text: str) -> str:
    return f"refused there: {text}"


@pytest.mark.parametrize(
    ("dialling", "accepting", "text"),
    [
        (
            dial(attrs.evolve(B, cluster="other")),
            accept(),
            "rabbit@a belongs to cluster 'shop', rabbit@b to 'other'",
        ),
        (dial(attrs.evolve(B, node="rabbit@a")), accept(), "there are two nodes named rabbit@a"),
        (dial(), accept(members={}), "rabbit@a knows no node rabbit@b in cluster 'shop'"),
        (
            dial(),
            accept(members={"rabbit@b": 8}),
            "rabbit@a knows rabbit@b in its incarnation 8, and this is 7:"
            " it has been restarted, or another node has its name",
        ),
        (
            dial(attrs.evolve(B, secret=b"guessed")),
            accept(),
            "the secret of rabbit@b is not that of rabbit@a, although both belong to cluster"
            f" 'shop': {ADVICE}",
        ),
        (
            dial(attrs.evolve(B, versions=(4, 3))),
            accept(attrs.evolve(A, versions=(2, 1))),
            "rabbit@a speaks versions 2 and 1 of the protocol between nodes,"
            " rabbit@b versions 4 and 3",
        ),
        (
            dial(attrs.evolve(B, versions=(2,))),
            accept(),
            "rabbit@a speaks version 1 of the protocol between nodes, rabbit@b version 2",
        ),
    ],
)
def test_the_side_that_was_dialled_says_why_it_refuses(
    dialling: Dialling, accepting: Accepting, text: str
) -> None:
    assert shake(dialling, accepting) == (refused_there(text), text)
    assert not dialling.is_done
    assert not accepting.is_done


@pytest.mark.parametrize(
    ("dialling", "accepting", "text"),
    [
        (
            dial(node="rabbit@c"),
            accept(),
            "rabbit@b looks for rabbit@c, and this is rabbit@a",
        ),
        (
            dial(incarnation=2),
            accept(),
            "rabbit@b knows rabbit@a in its incarnation 2, and this is 3:"
            " it has been restarted, or another node has its name",
        ),
    ],
)
def test_the_side_that_dialled_says_why_it_refuses(
    dialling: Dialling, accepting: Accepting, text: str
) -> None:
    assert shake(dialling, accepting) == (text, refused_there(text))


def test_an_accepter_from_another_cluster_or_without_the_secret_is_refused() -> None:
    dialling, accepting = dial(), accept(attrs.evolve(A, secret=b"guessed"))
    # It lets everybody in.
    accepting._check_mac = lambda mac: None  # type: ignore[method-assign]
    text = "the secret of rabbit@a is not that of rabbit@b, although both belong to cluster 'shop'"
    assert shake(dialling, accepting)[0] == f"{text}: {ADVICE}"

    dialling = dial()
    other = accept(attrs.evolve(A, cluster="other"))
    other._own = attrs.evolve(A)
    other.receive(dialling.take_outbox())
    introduction = msgspec.msgpack.encode([[1], "other", "rabbit@a", 3, NONCES[1]])
    with pytest.raises(LinkRefused, match="rabbit@b belongs to cluster 'shop', rabbit@a to 'oth"):
        dialling.receive(encode_frame(CHALLENGE, introduction))


@pytest.mark.parametrize(
    ("accepting", "is_passing"),
    [
        (accept(members={}), True),
        (accept(members={"rabbit@b": 8}), True),
        (accept(attrs.evolve(A, node="rabbit@c")), True),
        (accept(attrs.evolve(A, secret=b"guessed")), False),
        (accept(attrs.evolve(A, cluster="other")), False),
        (accept(attrs.evolve(A, versions=(2,))), False),
    ],
)
def test_both_know_what_may_be_over_in_a_moment(accepting: Accepting, is_passing: bool) -> None:
    dialling = dial()
    refusals = []
    sides: list[Handshake] = [dialling, accepting]
    while len(refusals) < 2:
        data = sides[0].take_outbox()
        sides.reverse()
        try:
            sides[0].receive(data)
        except LinkRefused as error:
            refusals.append(error.is_passing)

    assert refusals == [is_passing, is_passing]


def test_a_refusal_is_told_in_one_line_whatever_the_other_side_says() -> None:
    dialling = dial()
    text = "a" * 490 + "\n\x1b[31m" + "b" * 5000
    payload = msgspec.msgpack.encode([False, text])[:HELLO_BYTES_MAX]
    with pytest.raises(LinkFault):
        dialling.receive(encode_frame(REFUSAL, payload))
    payload = msgspec.msgpack.encode([False, text[:3000]])
    with pytest.raises(LinkRefused) as caught:
        dialling.receive(encode_frame(REFUSAL, payload))
    assert str(caught.value) == refused_there("a" * 490 + "[31m" + "b" * 4)


# -- versions ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("dialler", "accepter", "version"),
    [((2, 1), (2, 1), 2), ((2, 1), (1,), 1), ((1,), (2, 1), 1), ((3, 2), (2, 1), 2)],
)
def test_the_highest_common_version_is_spoken(
    dialler: tuple[int, ...], accepter: tuple[int, ...], version: int
) -> None:
    dialling = dial(attrs.evolve(B, versions=dialler))
    accepting = accept(attrs.evolve(A, versions=accepter))

    assert shake(dialling, accepting) == (NEITHER, NEITHER)
    assert dialling.version == accepting.version == version


def test_a_later_version_may_say_more_in_its_hello() -> None:
    accepting = accept()
    said = [[2, 1], "shop", "rabbit@b", 7, NONCES[0], "something new", {"more": 1}]
    accepting.receive(MAGIC + encode_frame(HELLO, msgspec.msgpack.encode(said)))
    assert accepting.version == 1
    assert accepting.node == "rabbit@b"


def test_a_version_that_nobody_offered_is_a_fault() -> None:
    dialling = dial()
    payload = msgspec.msgpack.encode([[9], "shop", "rabbit@a", 3, NONCES[1]])
    with pytest.raises(LinkFault, match="version 9 was chosen, which nobody offered"):
        dialling.receive(encode_frame(CHALLENGE, payload))


# -- attacks -----------------------------------------------------------------------------------


def test_a_proof_that_is_sent_back_proves_nothing() -> None:
    dialling, accepting = dial(), accept()
    accepting.receive(dialling.take_outbox())
    dialling.receive(accepting.take_outbox())
    proof = dialling.take_outbox()[HEAD_BYTES:]

    with pytest.raises(LinkRefused, match="secret"):
        dialling.receive(encode_frame(WELCOME, proof))


def test_a_node_that_is_dialled_back_does_not_prove_anything_for_a_stranger() -> None:
    """The stranger has no secret; it passes the challenge of A on to A itself, as if to dial it."""
    members = {"rabbit@b": 7}
    attacked, oracle = accept(members=members), accept(members=members)
    introduction = msgspec.msgpack.encode([[1], "shop", "rabbit@b", 7, NONCES[0]])
    attacked.receive(MAGIC + encode_frame(HELLO, introduction))
    challenge = attacked.take_outbox()[HEAD_BYTES:]
    # Its own name is not believed, and with another name the proof is another.
    with pytest.raises(LinkRefused, match="two nodes"):
        oracle.receive(MAGIC + encode_frame(HELLO, challenge))


def test_a_proof_from_another_hello_proves_nothing() -> None:
    dialling, accepting = dial(), accept()
    accepting.receive(dialling.take_outbox())
    dialling.receive(accepting.take_outbox())
    proof = dialling.take_outbox()

    for nonce, own in ((NONCES[0], A), (NONCES[1], attrs.evolve(A, incarnation=4))):
        again = Accepting(own, nonce, {"rabbit@b": 7}.get)
        again.receive(dial().take_outbox())
        with pytest.raises(LinkRefused, match="secret"):
            again.receive(proof)


def test_a_version_cannot_be_talked_down_on_the_way() -> None:
    """Somebody between both takes version 2 out of what the dialler offers."""
    dialling = dial(attrs.evolve(B, versions=(2, 1)))
    accepting = accept(attrs.evolve(A, versions=(2, 1)))
    dialling.take_outbox()
    less = msgspec.msgpack.encode([[1], "shop", "rabbit@b", 7, NONCES[0]])
    accepting.receive(MAGIC + encode_frame(HELLO, less))
    dialling.receive(accepting.take_outbox())
    with pytest.raises(LinkRefused, match="secret"):
        accepting.receive(dialling.take_outbox())


def test_who_is_no_member_hears_so_only_with_the_secret() -> None:
    accepting = accept(members={})
    accepting.receive(dial(attrs.evolve(B, secret=b"guessed")).take_outbox())
    with pytest.raises(LinkRefused, match="secret"):
        accepting.receive(encode_frame(PROOF, bytes(32)))


# -- what is no hello --------------------------------------------------------------------------


@pytest.mark.parametrize("data", [b"GET / HTTP/1.1\r\n", b"AMQP\0\0\x09\x01", b"amqplinK", b"\0"])
def test_what_is_no_node_is_told_by_its_first_octets(data: bytes) -> None:
    with pytest.raises(LinkFault, match="no node, it began with") as caught:
        accept().receive(data)
    assert not isinstance(caught.value, LinkRefused)


@pytest.mark.parametrize("kind", [CHALLENGE, PROOF, WELCOME, 5, 16, 255])
def test_the_accepter_wants_the_hello_first(kind: int) -> None:
    with pytest.raises(LinkFault, match=f"kind {kind} in the hello"):
        accept().receive(MAGIC + encode_frame(kind))


@pytest.mark.parametrize("kind", [HELLO, PROOF, WELCOME, 5, 16, 255])
def test_the_dialler_wants_the_challenge_first(kind: int) -> None:
    with pytest.raises(LinkFault, match=f"kind {kind} in the hello"):
        dial().receive(encode_frame(kind))


def test_nothing_is_said_twice() -> None:
    dialling, accepting = dial(), accept()
    hello = dialling.take_outbox()
    accepting.receive(hello)
    challenge = accepting.take_outbox()
    dialling.receive(challenge)
    with pytest.raises(LinkFault, match="kind 0 in the hello"):
        accepting.receive(hello[len(MAGIC) :])
    with pytest.raises(LinkFault, match="kind 1 in the hello"):
        dialling.receive(challenge)


@pytest.mark.parametrize(
    "said",
    [
        [],
        "hello",
        [[], "shop", "rabbit@b", 7, NONCES[0]],
        [list(range(17)), "shop", "rabbit@b", 7, NONCES[0]],
        [[1], "", "rabbit@b", 7, NONCES[0]],
        [[1], "shop", "", 7, NONCES[0]],
        [[1], "shop", "r" * 256, 7, NONCES[0]],
        [[1], "shop", "rabbit@b", -1, NONCES[0]],
        [[1], "shop", "rabbit@b", "7", NONCES[0]],
        [[1], "shop", "rabbit@b", 7, NONCES[0][1:]],
        [["1"], "shop", "rabbit@b", 7, NONCES[0]],
        [[1], "shop", "rabbit@b\n", 7, NONCES[0]],
        [[1], "sh\x1bop", "rabbit@b", 7, NONCES[0]],
    ],
)
def test_a_hello_that_cannot_be_is_a_fault(said: object) -> None:
    with pytest.raises(LinkFault):
        accept().receive(MAGIC + encode_frame(HELLO, msgspec.msgpack.encode(said)))


@pytest.mark.parametrize("kind", [HELLO, REFUSAL])
def test_a_hello_that_goes_too_deep_is_a_fault(kind: int) -> None:
    said = {
        HELLO: [[1], "shop", "rabbit@b", 7, bytes(NONCE_BYTES)],
        REFUSAL: [False, "no"],
    }[kind]
    longer = bytearray(msgspec.msgpack.encode(said))
    longer[0] += 1
    deep = b"\x91" * 3000 + b"\x90"
    with pytest.raises(LinkFault, match="a hello that cannot be read"):
        accept().receive(MAGIC + encode_frame(kind, bytes(longer) + deep))


def test_a_hello_has_a_size() -> None:
    with pytest.raises(LinkFault, match="more than 4096"):
        accept().receive(MAGIC + encode_frame(HELLO, bytes(HELLO_BYTES_MAX + 1)))


def test_no_broken_hello_gets_in_and_none_does_harm() -> None:
    dialling, accepting = dial(), accept()
    hello = dialling.take_outbox()
    accepting.receive(hello)
    challenge = accepting.take_outbox()
    dialling.receive(challenge)
    proof = dialling.take_outbox()
    accepting.receive(proof)
    welcome = accepting.take_outbox()

    rng = random.Random(5)
    for number in range(4000):
        to_accepter = number % 2 == 0
        good = [hello, proof] if to_accepter else [challenge, welcome]
        side: Handshake = accept() if to_accepter else dial()
        sayings = [bytearray(each) for each in good]
        for _ in range(rng.choice((1, 1, 2, 3))):
            saying = rng.choice(sayings)
            break_somewhere(rng, saying)
        sound = [bytes(each) for each in sayings] == good
        try:
            for saying in sayings:
                side.receive(bytes(saying))
                assert side.inbox.held_bytes <= HELLO_BYTES_MAX + HEAD_BYTES
        except LinkFault:
            continue
        assert side.is_done is sound, sayings


def break_somewhere(rng: random.Random, saying: bytearray) -> None:
    at = rng.randrange(len(saying)) if saying else 0
    match rng.randrange(5):
        case 0 if saying:
            saying[at] ^= 1 << rng.randrange(8)
        case 1:
            del saying[at:]
        case 2:
            saying[at:at] = rng.randbytes(rng.choice((1, 4, 100)))
        case 3:
            del saying[at : at + rng.randrange(8)]
        case _ if saying:
            saying[at] = rng.choice((0, 1, 0x7F, 0x80, 0xC0, 0xFF))


def test_a_hello_that_is_broken_at_any_bit_gets_nobody_in() -> None:
    first, proof = dial(), b""
    accepting = accept()
    hello = first.take_outbox()
    accepting.receive(hello)
    first.receive(accepting.take_outbox())
    proof = first.take_outbox()
    for at in range(len(hello) + len(proof)):
        for bit in range(8):
            said = [bytearray(hello), bytearray(proof)]
            place = at if at < len(hello) else at - len(hello)
            said[at >= len(hello)][place] ^= 1 << bit
            side = accept()
            try:
                for each in said:
                    side.receive(bytes(each))
            except LinkFault:
                continue
            assert not side.is_done, (at, bit)
