"""Where settings come from, and what a wrong one is told."""

from pathlib import Path
from typing import Any

import pytest

from amqpbroker.errors import ConfigError
from amqpbroker.server.config import Config, load_config
from amqpbroker.server.limits import Amount


def refused(
    flags: dict[str, Any] | None = None,
    environment: dict[str, str] | None = None,
    file: Path | None = None,
) -> str:
    with pytest.raises(ConfigError) as caught:
        load_config(flags or {}, environment or {}, file)
    text = str(caught.value)
    assert "\n" not in text
    return text


def written(path: Path, text: str) -> Path:
    file = path / "broker.toml"
    file.write_text(text)
    return file


def test_without_settings_the_defaults_hold() -> None:
    config = load_config({}, {})

    assert config.listen == ("127.0.0.1", 5672)
    assert config.name.startswith("rabbit@")
    assert config == Config(http="127.0.0.1:15672", metrics="127.0.0.1:15692")


def test_a_node_in_a_program_opens_no_doors_beside_amqp() -> None:
    assert (Config().http, Config().metrics) == (None, None)


def test_a_door_can_be_left_out() -> None:
    config = load_config({"http": ""}, {"AMQPBROKER_METRICS": ""})

    assert (config.http, config.metrics) == (None, None)


def test_flags_beat_the_environment_that_beats_the_file(tmp_path: Path) -> None:
    file = written(tmp_path, 'name = "rabbit@file"\nlisten = "127.0.0.1:1"\nheartbeat_s = 7\n')
    environment = {"AMQPBROKER_NAME": "rabbit@environment", "AMQPBROKER_LISTEN": "127.0.0.1:2"}

    config = load_config({"name": "rabbit@flag", "listen": None}, environment, file)

    assert (config.name, config.listen[1], config.heartbeat_s) == ("rabbit@flag", 2, 7)


def test_the_environment_is_read_as_numbers_and_truths() -> None:
    environment = {
        "AMQPBROKER_MEMORY": "true",
        "AMQPBROKER_CHANNEL_MAX": "5",
        "AMQPBROKER_VM_MEMORY_HIGH_WATERMARK": "0.5",
        "AMQPBROKER_SOMETHING_ELSE": "is not ours to judge",
    }

    config = load_config({}, environment)

    assert (config.memory, config.channel_max) == (True, 5)
    assert config.vm_memory_high_watermark == Amount(of_memory=0.5)


def test_an_ipv6_address_stands_in_brackets() -> None:
    assert load_config({"listen": "[::1]:5672"}, {}).listen == ("::1", 5672)


@pytest.mark.parametrize("address", ["5672", "localhost", ":5672", "localhost:amqp", "a:99999"])
def test_a_wrong_address_is_told_what_an_address_is(address: str) -> None:
    assert "must be HOST:PORT, like 127.0.0.1:5672" in refused({"listen": address})


def test_an_unknown_key_is_told_which_there_are(tmp_path: Path) -> None:
    text = refused(file=written(tmp_path, "lisen = '127.0.0.1:5672'"))

    assert "no setting 'lisen'" in text
    assert "listen" in text


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("listen = 5672", "listen must be text"),
        ("name = ''", "name must be text"),
        ("memory = 'yes'", "memory must be true or false"),
        ("heartbeat_s = -1", "heartbeat_s must be a whole number"),
        ("frame_max = 100", "frame_max must be a whole number, between 4096"),
        ("channel_max = 70000", "channel_max must be a whole number, between 1 and 65535"),
        ("connections_max = 0", "connections_max must be a whole number, 1 or more"),
        ("message_bytes_max = 1e6", "message_bytes_max must be a whole number"),
        ("heartbeat_s = 70000", "heartbeat_s must be a whole number, between 0 and 65535"),
        ("vm_memory_high_watermark = 2", "a share of the memory between 0 and 1, like 0.4"),
        ("vm_memory_high_watermark = '1073741824'", ".absolute = 1073741824, not '1073741824'"),
        ("vm_memory_high_watermark = -0.1", "not -0.1"),
        ("vm_memory_high_watermark = nan", "not nan"),
        ("vm_memory_high_watermark.relative = '0.4GB'", "not {'relative': '0.4GB'}"),
        ("disk_free_limit = -1", "an amount like 50MB, 2GiB or 50000000 (octets)"),
        ("disk_free_limit = '50XB'", "not '50XB'"),
        ("disk_free_limit = '1.5GB'", "not '1.5GB'"),
        ("disk_free_limit = 1.5", "disk_free_limit.relative = 1.5, not 1.5"),
        ("disk_free_limit = true", "not True"),
        ("disk_free_limit = []", "not []"),
        ("disk_free_limit = {}", "not {}"),
        ("disk_free_limit = 'half 1'", "not 'half 1'"),
        ("disk_free_limit.absolut = '1GB'", "not {'absolut': '1GB'}"),
        ("disk_free_limit.absolute = '1 GB'", "not {'absolute': '1 GB'}"),
        ("data_dir = 5", "data_dir must be the path of a folder, not 5"),
        ('data_dir = "a\\u0000b"', "data_dir must be the path of a folder"),
        ("log_level = 'loud'", "log_level"),
    ],
)
def test_a_wrong_value_is_told_what_is_right(tmp_path: Path, line: str, complaint: str) -> None:
    assert complaint in refused(file=written(tmp_path, line))


MIB, GIB = 1 << 20, 1 << 30


@pytest.mark.parametrize(
    ("line", "octets"),
    [
        ("disk_free_limit = 50000000", 50_000_000),
        ("disk_free_limit = '50MB'", 50_000_000),
        ("disk_free_limit = '2GiB'", 2 * GIB),
        ("disk_free_limit.absolute = '500Mi'", 500 * MIB),
        ("disk_free_limit.absolute = 0", 0),
        ("disk_free_limit.absolute = '10k'", 10_000),
        ("disk_free_limit.absolute = '3tb'", 3_000_000_000_000),
        ("disk_free_limit.relative = 1.5", 12 * GIB),
        ("disk_free_limit.relative = 1", 8 * GIB),
        ("disk_free_limit = 'mem_relative 0.25'", 2 * GIB),
        ("disk_free_limit = {relative = 1.5, absolute = '1GB'}", 1_000_000_000),
        ("vm_memory_high_watermark = 0.5", 4 * GIB),
        ("vm_memory_high_watermark = '0.25'", 2 * GIB),
        ("vm_memory_high_watermark = 0", 0),
        ("vm_memory_high_watermark.relative = 0.5", 4 * GIB),
        ("vm_memory_high_watermark.relative = '1'", 8 * GIB),
        ("vm_memory_high_watermark.absolute = 1073741824", GIB),
        ("vm_memory_high_watermark.absolute = '1GiB'", GIB),
        ("vm_memory_high_watermark = '100M'", 100_000_000),
        ("vm_memory_high_watermark = 'absolute 1073741824'", GIB),
    ],
)
def test_an_amount_has_a_unit_or_is_a_share_of_the_memory(
    tmp_path: Path, line: str, octets: int
) -> None:
    config = load_config({}, {}, written(tmp_path, line))

    name = line.partition(".")[0].split()[0]
    assert getattr(config, name).octets_of(8 * GIB) == octets


def test_amounts_come_from_flags_and_the_environment_too() -> None:
    config = load_config(
        {"disk_free_limit": "mem_relative 2"}, {"AMQPBROKER_VM_MEMORY_HIGH_WATERMARK": "1GiB"}
    )

    assert config.disk_free_limit.octets_of(GIB) == 2 * GIB
    assert config.vm_memory_high_watermark.octets_of(8 * GIB) == GIB


def test_a_file_that_is_not_there_or_not_toml_is_named(tmp_path: Path) -> None:
    assert "cannot read" in refused(file=tmp_path / "none.toml")
    assert "is not TOML" in refused(file=written(tmp_path, "listen ="))


@pytest.mark.parametrize(
    ("variable", "text"), [("AMQPBROKER_MEMORY", "perhaps"), ("AMQPBROKER_FRAME_MAX", "big")]
)
def test_a_wrong_variable_is_named(variable: str, text: str) -> None:
    assert f"{variable} is '{text}'" in refused(environment={variable: text})


def test_a_cluster_is_named_by_urls() -> None:
    text = {"AMQPBROKER_CLUSTER": "http://a:2379, http://b:2379,"}
    assert load_config({}, text).cluster == ("http://a:2379", "http://b:2379")
    assert Config(cluster=["http://a:2379"]).cluster == ("http://a:2379",)
    assert Config().cluster == ()
    assert "must be URLs" in refused({"cluster": 5})


def test_a_node_in_memory_is_in_no_cluster() -> None:
    assert "leave out --memory" in refused({"memory": True, "cluster": "http://a:2379"})


def test_a_message_fits_into_a_frame_between_nodes() -> None:
    huge = {"message_bytes_max": 256 << 20}
    assert load_config(huge, {}).message_bytes_max == 256 << 20
    assert "can be 267386880 at most" in refused({**huge, "cluster": "http://a:2379"})


def test_what_is_said_to_etcd_goes_together() -> None:
    assert "etcd_cert and etcd_key" in refused({"etcd_cert": "a"})
    assert "etcd_user and etcd_password_file" in refused({"etcd_user": "a"})
    assert "link_ca, link_cert and link_key" in refused({"link_ca": "a", "link_key": "b"})


def test_others_find_a_node_where_it_listens_or_says() -> None:
    assert Config(link="10.0.0.1:25672").host == "10.0.0.1"
    assert Config(link="0.0.0.0:25672", name="rabbit@a").host == "a"
    assert Config(link="10.0.0.1:25672", advertise="a.example").host == "a.example"
    assert Config(advertise="a.example").link_address(1) == ("a.example", 1)
    assert Config(advertise="a.example:2").link_address(1) == ("a.example", 2)
    assert Config(advertise="[::1]:2").link_address(1) == ("::1", 2)
    assert Config(advertise="::1").link_address(1) == ("::1", 1)


@pytest.mark.parametrize(
    "host", ["a..b", "a:b", "a b", "a:99999", ":5", "::g", "[::1", "x" * 64, "a\0b"]
)
def test_what_others_cannot_reach_is_no_host(host: str) -> None:
    assert "advertise must be HOST or HOST:PORT, not" in refused({"advertise": host})


def test_locators_are_known_words() -> None:
    assert Config(queue_master_locator="min-masters").queue_master_locator == "min-masters"
    assert Config(queue_leader_locator="node:rabbit@a").queue_leader_locator == "node:rabbit@a"
    assert "client-local, balanced" in refused({"queue_leader_locator": "nowhere"})
