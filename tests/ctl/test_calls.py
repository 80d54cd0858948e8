"""Whom the command asks, as whom, and what it says when nobody answers."""

import json
from pathlib import Path
from typing import Any

import pytest

from amqpbroker.cli.ctl.api import ApiTimeout, Target, target_of_url
from amqpbroker.cli.ctl.command import TOOLS
from amqpbroker.cli.ctl.commands import commands_of


def make_node(folder: Path, name: str) -> Path:
    folder.mkdir(parents=True)
    (folder / "node.json").write_text(f'{{"name": "{name}"}}')
    (folder / "ctl.sock").touch()
    return folder / "ctl.sock"


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("socket.gethostname", lambda: "here.example.org")
    return tmp_path / "amqpbroker-data"


# -- where ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("http://h:1", Target("http://h:1", user="guest", password="guest")),
        ("h", Target("http://h:15672", user="guest", password="guest")),
        ("http://h/api/", Target("http://h:15672", user="guest", password="guest")),
        ("https://h", Target("https://h:15671", user="guest", password="guest")),
        ("http://a%40b:c%2Fd@h:1/prefix", Target("http://h:1/prefix", "", "a@b", "c/d")),
        ("http://[::1]:1", Target("http://[::1]:1", user="guest", password="guest")),
    ],
)
def test_a_url_names_the_node_and_perhaps_the_user(url: str, expected: Target) -> None:
    assert target_of_url(url) == expected


def test_a_user_on_the_command_line_beats_the_one_in_the_url(node: Any) -> None:
    node.run("ping", "--url", "http://a:b@h", "--user", "c", "--password", "d")

    assert node.targets[0] == Target("http://h:15672", user="c", password="d")


def test_the_url_on_the_command_line_beats_the_environment(node: Any) -> None:
    node.run("ping", "--url", "http://one", AMQPBROKER_URL="http://two")

    assert node.targets[0].url == "http://one:15672"


def test_the_user_of_list_user_limits_is_not_who_asks(node: Any) -> None:
    node.answers["GET /api/users/joe"] = {"name": "joe"}

    node.run("list_user_limits", "--user", "joe")

    assert node.targets[0].user == "guest"


def test_a_wrong_url_is_told_with_status_78(node: Any) -> None:
    result = node.run("ping", "--url", "ftp://h", "-q")

    assert result.status == 78
    assert "'ftp://h' is no URL of a node" in result.err


def test_the_only_local_node_is_the_one_that_is_meant(node: Any, here: Path) -> None:
    path = make_node(here / "n1", "other@there")

    for words in ((), ("-n", "rabbit"), ("-n", "other@there"), ("-n", "other")):
        node.run("ping", *words, HOME="/")

        assert node.targets[-1] == Target(socket_path=str(path.relative_to(here.parent)))


def test_among_local_nodes_the_name_decides(node: Any, here: Path) -> None:
    make_node(here / "rabbit1", "rabbit1@localhost")
    make_node(here / "rabbit2", "rabbit2@localhost")

    node.run("ping", "-n", "rabbit2", HOME="/")

    assert node.targets[-1].socket_path == "amqpbroker-data/rabbit2/ctl.sock"


def test_among_local_nodes_the_one_named_after_this_host_comes_first(node: Any, here: Path) -> None:
    make_node(here / "a", "rabbit@here")
    make_node(here / "b", "rabbit@other")

    node.run("ping", HOME="/")

    assert node.targets[-1].socket_path == "amqpbroker-data/a/ctl.sock"


def test_several_local_nodes_must_be_told_apart(node: Any, here: Path) -> None:
    make_node(here / "rabbit1", "rabbit1@localhost")
    make_node(here / "rabbit2", "rabbit2@localhost")

    result = node.run("list_users", HOME="/")

    assert result.status == 69
    assert "several nodes here: rabbit1@localhost, rabbit2@localhost" in result.err


def test_a_name_that_no_local_node_has_is_not_another_node(node: Any, here: Path) -> None:
    make_node(here / "rabbit1", "rabbit1@localhost")

    result = node.run("list_users", "-n", "rabbit3@localhost", HOME="/")

    assert result.status == 69
    assert "the nodes here are rabbit1@localhost" in result.err


def test_the_environment_names_a_data_directory(node: Any, here: Path, tmp_path: Path) -> None:
    path = make_node(tmp_path / "elsewhere", "rabbit@elsewhere")

    node.run("ping", AMQPBROKER_DATA_DIR=str(tmp_path / "elsewhere"))

    assert node.targets[0].socket_path == str(path)


def test_without_a_local_node_the_default_address_is_asked(node: Any, here: Path) -> None:
    node.run("ping", HOME="/")

    assert node.targets[0] == Target("http://127.0.0.1:15672", user="guest", password="guest")


# -- nobody answers ------------------------------------------------------------------------------


def test_an_unreachable_node_is_told_with_status_69(unreachable: Any) -> None:
    result = unreachable.run("cluster_status", "-n", "rabbit@x")

    assert result.status == 69
    assert result.err.startswith("Error: unable to perform an operation on node 'rabbit@x'.")
    assert "asked http://node:15672: Connection refused" in result.err


def test_a_ping_that_fails_says_how_long_it_waited(unreachable: Any) -> None:
    result = unreachable.run("ping", "-n", "rabbit@x", "-t", "5")

    assert result.status == 69
    assert result.err == "Error:\nFailed to connect and authenticate to rabbit@x in 5000 ms\n"


def test_a_wrong_password_is_told_with_status_69(node: Any) -> None:
    node.answers["GET /api/users"] = (401, {"error": "not_authorized", "reason": "Login failed"})

    result = node.run("list_users", "-q")

    assert result.status == 69
    assert "as user 'guest': Login failed" in result.err


def test_an_answer_that_takes_too_long_is_told_with_status_75(node: Any) -> None:
    node.answers["GET /api/queues/%2F"] = ApiTimeout()

    result = node.run("list_queues", "-q", "-t", "3", "-n", "rabbit@x")

    assert result.status == 75
    assert result.err == (
        "Error: operation list_queues on node rabbit@x timed out. Timeout value used: 3000\n"
    )


def test_an_idempotent_stop_of_a_node_that_is_gone_succeeds(unreachable: Any) -> None:
    result = unreachable.run("stop", "--idempotent", "-n", "rabbit@x", "-q")

    assert (result.status, result.out) == (0, "Node rabbit@x is no longer running\n")


def test_a_node_is_not_stopped_when_another_one_is_meant(node: Any) -> None:
    result = node.run("stop", "-n", "rabbit@other")

    assert result.status == 69
    assert "asked node rabbit@here, which is not rabbit@other" in result.err
    assert not [each for each in node.asked if each.startswith("POST")]


# -- commands ------------------------------------------------------------------------------------


def test_every_tool_has_help_for_each_of_its_commands(node: Any) -> None:
    for tool in TOOLS:
        listed = node.run("help", tool=tool)
        assert listed.status == 0
        for name, command in commands_of(tool).items():
            result = node.run("help", name, tool=tool)

            assert result.status == 0
            assert f"{tool} [--node <node>] [--longnames] [--quiet] {name}" in result.out
            assert f"   {name} " in listed.out
            assert command.description or name.startswith("trace")


def test_under_its_own_name_it_is_rabbitmqctl(node: Any) -> None:
    result = node.run("help", "list_queues", tool="amqpbrokerctl")

    assert "amqpbrokerctl [--node <node>] [--longnames] [--quiet] list_queues" in result.out


def test_without_a_command_the_help_is_an_error(node: Any) -> None:
    result = node.run()

    assert result.status == 64
    assert "Available commands:" in result.err


@pytest.mark.parametrize("flag", ["--help", "-?"])
def test_help_that_is_asked_for_is_no_error(node: Any, flag: str) -> None:
    assert "Available commands:" in node.run(flag).out
    assert "Lists queues and their properties." in node.run("list_queues", "--help").out


def test_an_unknown_command_gets_the_help(node: Any) -> None:
    result = node.run("zzzzzz")

    assert result.status == 64
    assert result.err.startswith("\nCommand 'zzzzzz' not found. \n\nUsage")


def test_what_only_erlang_can_do_is_refused_with_the_reason(node: Any) -> None:
    result = node.run("eval", "1 + 1.")

    assert result.status == 69
    assert "this node does not run on Erlang" in result.err


def test_a_dry_run_says_what_it_would_do(node: Any) -> None:
    result = node.run("delete_vhost", "v", "--dry-run")

    assert (result.status, result.out) == (0, 'Deleting vhost "v" ...\n')
    assert node.asked == []


def test_a_reason_to_close_goes_to_the_client(node: Any) -> None:
    node.answers["GET /api/connections"] = [{"name": "a:1 -> b:2", "node": "n@h", "vhost": "/"}]
    node.answers["DELETE /api/connections/a%3A1%20-%3E%20b%3A2"] = None
    shown = node.run("-q", "list_connections", "pid", "--no-table-headers").out.strip()

    result = node.run("close_connection", shown, "go away")

    assert result.status == 0
    assert node.asked[-1] == "DELETE /api/connections/a%3A1%20-%3E%20b%3A2"
    assert node.headers[-1]["X-Reason"] == "go away"


def test_a_password_may_come_by_a_pipe(node: Any) -> None:
    node.answers["PUT /api/users/joe"] = None

    result = node.run("add_user", "joe", stdin="se cret\n")

    assert result.status == 0
    assert node.bodies[-1] == {"password": "se cret", "tags": ""}


def test_a_password_that_does_not_come_is_an_error(node: Any) -> None:
    result = node.run("add_user", "joe", "-q")

    assert result.status == 65
    assert result.err == "Error:\nPassword is not provided via argument or stdin\n"


def test_definitions_are_written_to_a_file_and_read_back(node: Any, tmp_path: Path) -> None:
    node.answers["GET /api/definitions"] = {"users": [{"name": "é"}]}
    node.answers["POST /api/definitions"] = None
    file = str(tmp_path / "d.json")

    exported = node.run("export_definitions", file)
    node.run("import_definitions", file, "-q")

    assert exported.out == f'Exporting definitions in JSON to a file at "{file}" ...\n'
    assert node.bodies[-1] == {"users": [{"name": "é"}]}
    assert node.run("export_definitions", "-").out == '{"users":[{"name":"é"}]}'


def test_json_is_not_what_it_seems_to_be(node: Any) -> None:
    result = node.run("set_policy", "-q", "p", ".*", '{"max-length"')

    assert result.status == 69
    assert result.err == (
        "Error:\nJSON decoding error. Reason:"
        ' {error,{failed_to_decode_json,<<"{\\"max-length\\"">>}}\n'
    )


@pytest.mark.parametrize(
    ("line", "banner", "settings"),
    [
        (
            "set_vm_memory_high_watermark 0.5",
            "Setting memory threshold on rabbit@here to 0.5 ...",
            {"vm_memory_high_watermark": "0.5"},
        ),
        (
            "set_vm_memory_high_watermark absolute 1GB",
            "Setting memory threshold on rabbit@here to 1GB bytes ...",
            {"vm_memory_high_watermark": "absolute 1GB"},
        ),
        (
            "set_disk_free_limit 2GB",
            "Setting disk free limit on rabbit@here to 2GB bytes ...",
            {"disk_free_limit": "2GB"},
        ),
        (
            "set_disk_free_limit mem_relative 1.5",
            "Setting disk free limit on rabbit@here to 1.5 times the total RAM ...",
            {"disk_free_limit": "mem_relative 1.5"},
        ),
        ("set_log_level notice", 'Setting log level to "notice" ...', {"log_level": "info"}),
    ],
)
def test_settings_are_changed(node: Any, line: str, banner: str, settings: Any) -> None:
    node.answers["POST /api/amqpbroker/nodes/rabbit%40here/settings"] = None

    result = node.run(*line.split())

    assert (result.status, result.out) == (0, f"{banner}\n")
    assert node.bodies[-1] == settings


@pytest.mark.parametrize(
    ("line", "status"),
    [
        ("set_vm_memory_high_watermark 1.5", 65),
        ("set_vm_memory_high_watermark x", 65),
        ("set_vm_memory_high_watermark absolute", 64),
        ("set_vm_memory_high_watermark 0.4 0.5", 64),
        ("set_disk_free_limit mem_relative", 64),
        ("set_disk_free_limit 1 2", 64),
        ("set_log_level loud", 69),
    ],
)
def test_settings_that_make_no_sense_are_refused(node: Any, line: str, status: int) -> None:
    assert node.run(*line.split()).status == status
    assert node.asked == []


def test_a_node_of_a_cluster_on_this_machine_is_found(node: Any, here: Path) -> None:
    make_node(here / "cluster" / "rabbit1", "rabbit1@localhost")
    make_node(here / "cluster" / "rabbit2", "rabbit2@localhost")

    node.run("ping", "-n", "rabbit2", HOME="/")

    assert node.targets[-1].socket_path == "amqpbroker-data/cluster/rabbit2/ctl.sock"


@pytest.mark.parametrize(
    ("answer", "status", "text"),
    [
        (None, 0, ""),
        ((404, {"error": "not_found", "reason": "x"}), 69, "{:not_a_cluster_node, "),
        ((400, {"error": "bad_request", "reason": "must be stopped"}), 69, "must be stopped"),
    ],
)
def test_a_node_is_forgotten_unless_it_is_up(
    node: Any, answer: Any, status: int, text: str
) -> None:
    node.answers["DELETE /api/amqpbroker/nodes/rabbit%40gone"] = answer

    result = node.run("forget_cluster_node", "rabbit@gone")

    assert result.status == status
    assert result.out == "Removing node rabbit@gone from the cluster\n"
    assert text in result.err


# -- Listeners ---------------------------------------------------------------------------------


def test_listeners_are_suspended_and_resumed(node: Any) -> None:
    for action in ("suspend", "resume"):
        node.answers[f"POST /api/amqpbroker/nodes/rabbit%40here/{action}"] = None

    assert node.run("suspend_listeners").out == (
        "Will suspend client connection listeners on node rabbit@here."
        " The node will no longer accept client connections!\n"
    )
    assert node.run("resume_listeners").out == (
        "Will resume client connection listeners on node rabbit@here."
        " The node will now accept client connections\n"
    )


# -- Mirrors -----------------------------------------------------------------------------------


def test_a_queue_with_mirrors_is_synchronised(node: Any) -> None:
    queue = {"name": "q", "slave_nodes": ["rabbit@b"]}
    node.answers["GET /api/queues/%2F/q"] = queue
    node.answers["POST /api/queues/%2F/q/actions"] = None

    assert node.run("sync_queue", "q").status == 0
    assert node.bodies[-1] == {"action": "sync"}
    assert node.run("cancel_sync_queue", "q", "-q").out == "not_syncing\n"
    node.answers["GET /api/queues/%2F/q"] = {**queue, "sync_messages": 7}
    assert node.run("cancel_sync_queue", "q", "-q").out == ""
    assert node.bodies[-1] == {"action": "cancel_sync"}


def test_rebalancing_tells_of_replicated_queues_only(node: Any) -> None:
    node.answers["POST /api/rebalance/queues"] = None
    node.answers["GET /api/queues"] = [
        {"node": "rabbit@a", "type": "classic"},
        {"node": "rabbit@a", "type": "classic", "slave_nodes": []},
        {"node": "rabbit@b", "type": "quorum"},
    ]

    def run(kind: str) -> Any:
        result = node.run("rebalance", kind, "--formatter", "json", tool="rabbitmq-queues")
        return json.loads(result.out)

    classic, quorum = "Number of replicated classic queues", "Number of quorum queues"
    assert run("classic") == [{"Node name": "rabbit@a", classic: 1}]
    assert run("all") == [
        {"Node name": "rabbit@a", classic: 1, quorum: 0},
        {"Node name": "rabbit@b", classic: 0, quorum: 1},
    ]
    assert run("stream") == []
