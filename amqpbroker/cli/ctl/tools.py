"""What is not about a broker's things: help, version, plugins, and what only Erlang has."""

from collections.abc import Callable
from typing import Any

from amqpbroker.cli.ctl.api import ApiRefused
from amqpbroker.cli.ctl.command import (
    BOTH,
    CTL,
    DIAGNOSTICS,
    EXIT_USAGE,
    PLUGINS,
    TIMED,
    Answer,
    Call,
    Command,
    Report,
    Rows,
    failed,
)
from amqpbroker.cli.ctl.vhosts import metadata_of

VERSION = "3.13.7"
"""The RabbitMQ whose commands these are."""


def _version(call: Call) -> Report:
    return Report([VERSION], {"version": VERSION})


def _environment(call: Call) -> str:
    """The settings that the API tells of."""
    overview = call.overview
    keys = ("cluster_name", "node", "rabbitmq_version", "rates_mode")
    pairs = ",\n      ".join(f'{{{key},<<"{overview[key]}">>}}' for key in keys if key in overview)
    return f"[{{rabbit,\n     [{pairs}]}}]"


def _list_feature_flags(call: Call) -> Rows:
    names = [name for argument in call.arguments for name in argument.split(",")]
    names = names or ["name", "state"]
    flags = call.api.get("feature-flags")
    return Rows([{name: flag[name] for name in names if name in flag} for flag in flags])


def _enable_feature_flag(call: Call) -> None:
    """Enable a flag; all of them are enabled anyway."""
    (name,) = call.arguments
    if name == "all" and call.options["experimental"]:
        text = (
            "`--experimental` flag is not allowed when enabling all feature flags.\n"
            "Use --experimental with a specific feature flag if you want to enable an experimental"
            " feature."
        )
        raise failed(text, EXIT_USAGE)
    if name == "all":
        return
    try:
        call.api.put("feature-flags", name, "enable", body={"name": name})
    except ApiRefused as refusal:
        raise failed(
            f"This feature flag is not supported by node {call.node}", EXIT_USAGE
        ) from refusal


def _trace(is_on: bool) -> Callable[[Call], str]:
    def run(call: Call) -> str:
        there = call.api.find("vhosts", call.vhost)
        if there is not None:
            call.api.put("vhosts", call.vhost, body={**metadata_of(there), "tracing": is_on})
        return f"Trace {'enabled' if is_on else 'disabled'} for vhost {call.vhost}"

    return run


# -- Plugins -----------------------------------------------------------------------------------


def _plugins(call: Call) -> list[str]:
    """The plugins that the node has; all are enabled."""
    return sorted(call.api.get("nodes", call.node).get("enabled_plugins", ()))


def _list_plugins(call: Call) -> Report:
    pattern = call.arguments[0] if call.arguments else ".*"
    names = [name for name in _plugins(call) if pattern == ".*" or pattern in name]
    version = call.overview["rabbitmq_version"]
    data = {
        "format": "minimal" if call.options.get("minimal") else "normal",
        "plugins": [
            {
                "enabled": "enabled",
                "name": name,
                "running": True,
                "running_version": version,
                "version": version,
            }
            for name in names
        ],
        "status": "running",
    }
    if call.options.get("minimal"):
        return Report(names, data)
    legend = [
        " Configured: E = explicitly enabled; e = implicitly enabled",
        f" | Status: * = running on {call.node}",
        " |/",
    ]
    width = max(map(len, names), default=0)
    lines = [f"[E*] {name:{width}} {version}" for name in names]
    return Report([*([] if call.is_quiet else legend), *lines], data)


def _list_banner(call: Call) -> str:
    pattern = call.arguments[0] if call.arguments else ".*"
    return f'Listing plugins with pattern "{pattern}" ...'


def _is_enabled(call: Call) -> str:
    there = _plugins(call)
    missing = [name for name in call.arguments if name not in there]
    one = len(call.arguments) == 1
    if missing:
        names = ", ".join(missing)
        which = f"Plugin {names} is" if len(missing) == 1 else f"Plugins {names} are"
        known = ", ".join(there)
        text = f"{which} not enabled on node {call.node}. Enabled plugins and dependencies: {known}"
        raise failed(text)
    names = ", ".join(call.arguments)
    which = f"Plugin {names} is" if one else f"Plugins {names} are"
    return f"{which} enabled on node {call.node}"


def _change_plugins(call: Call) -> Answer:
    """Enabling what is there changes nothing; the rest is a matter of the node's settings."""
    missing = [name for name in call.arguments if name not in _plugins(call)]
    if missing or call.options.get("all"):
        raise failed(
            f"{', '.join(missing) or 'all'}: plugins of this node are chosen by its setting"
            " plugins.enabled"
        )
    return "Plugin configuration unchanged."


# -- What there is not -------------------------------------------------------------------------

_NO_ERLANG = "this node does not run on Erlang"
_STOPPED = "stop the node, and start it with another data directory"
_REFUSED = (
    ("eval", "<expression>", _NO_ERLANG, (CTL,)),
    ("eval_file", "<file path>", _NO_ERLANG, (CTL,)),
    ("exec", "<expression> [--offline]", _NO_ERLANG, (CTL,)),
    ("remote_shell", "", _NO_ERLANG, (DIAGNOSTICS,)),
    ("observer", "[--interval <seconds>]", _NO_ERLANG, (DIAGNOSTICS,)),
    ("erlang_cookie_hash", "", _NO_ERLANG, (DIAGNOSTICS,)),
    ("erlang_cookie_sources", "", _NO_ERLANG, (DIAGNOSTICS,)),
    ("erlang_version", "", _NO_ERLANG, (DIAGNOSTICS,)),
    ("runtime_thread_stats", "[--sample-interval <interval>]", _NO_ERLANG, (DIAGNOSTICS,)),
    ("maybe_stuck", "", _NO_ERLANG, (DIAGNOSTICS,)),
    ("force_gc", "", _NO_ERLANG, (CTL,)),
    ("hipe_compile", "<directory>", _NO_ERLANG, (CTL,)),
    ("schema_info", "[--no-table-headers] [<column> ...]", "there is no Mnesia here", BOTH),
    ("change_cluster_node_type", "<disc | ram>", "every node keeps its data on disk", (CTL,)),
    (
        "rename_cluster_node",
        "<oldnode1> <newnode1> [oldnode2] [newnode2] ...",
        "a node keeps its name",
        (CTL,),
    ),
    ("update_cluster_nodes", "<seed_node>", "nodes learn of each other from etcd", (CTL,)),
    (
        "join_cluster",
        "[--disc|--ram] <existing_cluster_member>",
        "a node joins a cluster when it is started: serve --cluster",
        (CTL,),
    ),
    ("stop_app", "", "stop the node instead: stop", (CTL,)),
    ("start_app", "", "start the node instead: amqpbroker serve", (CTL,)),
    ("reset", "", _STOPPED, (CTL,)),
    ("force_reset", "", _STOPPED, (CTL,)),
    ("force_boot", "", "a node starts whether the others run or not", (CTL,)),
    ("rotate_logs", "", "logs go to the standard error", (CTL,)),
)
"""Commands that only make sense in Erlang, or in Erlang's clusters: what is to be said instead."""


def _refused(name: str, usage: str, why: str, tools: tuple[str, ...]) -> Command:
    def run(call: Call) -> Answer:
        raise failed(f"{name} is not supported: {why}")

    return Command(
        name=name,
        run=run,
        usage=usage,
        description=f"Not supported: {why}",
        section="deprecated",
        most=None,
        switches={
            "offline": bool,
            "disc": bool,
            "ram": bool,
            "interval": int,
            "sample_interval": int,
        },
        tools=tools,
    )


_EVERYWHERE = (*BOTH, PLUGINS)
_PLUGIN_SWITCHES: dict[str, Any] = {"offline": bool, "online": bool, "all": bool}

COMMANDS = (
    Command(
        name="version",
        run=_version,
        description="Displays CLI tools version",
        section="help",
        tools=_EVERYWHERE,
    ),
    Command(
        name="environment",
        run=_environment,
        description="Displays the name and value of each variable in the application environment"
        " for each running application",
        section="configuration",
        banner=lambda call: f"Application environment of node {call.node} ...",
        tools=BOTH,
    ),
    Command(
        name="list_feature_flags",
        run=_list_feature_flags,
        usage="[<column> ...]",
        description="Lists feature flags",
        section="feature_flags",
        most=None,
        switches=TIMED,
        banner="Listing feature flags ...",
        tools=BOTH,
        formatter="table",
    ),
    Command(
        name="enable_feature_flag",
        run=_enable_feature_flag,
        usage="[--experimental] <all | feature_flag>",
        description="Enables a feature flag or all supported feature flags on the target node",
        section="feature_flags",
        least=1,
        most=1,
        switches={"experimental": bool},
        defaults={"experimental": False},
        banner=lambda call: (
            "Enabling all feature flags ..."
            if call.arguments[0] == "all"
            else f'Enabling feature flag "{call.arguments[0]}" ...'
        ),
    ),
    Command(
        name="trace_on",
        run=_trace(True),
        usage="[--vhost <vhost>]",
        section="virtual_hosts",
        defaults={"vhost": "/"},
        banner='Starting tracing for vhost "{vhost}" ...',
    ),
    Command(
        name="trace_off",
        run=_trace(False),
        usage="[--vhost <vhost>]",
        section="virtual_hosts",
        defaults={"vhost": "/"},
        banner='Stopping tracing for vhost "{vhost}" ...',
    ),
    Command(
        name="list",
        run=_list_plugins,
        usage="[pattern] [--verbose] [--minimal] [--enabled] [--implicitly-enabled]",
        description="Lists plugins and their state",
        section="plugin_management",
        most=1,
        switches={
            "verbose": bool,
            "minimal": bool,
            "enabled": bool,
            "implicitly_enabled": bool,
        },
        aliases={"v": "verbose", "m": "minimal", "E": "enabled", "e": "implicitly_enabled"},
        banner=_list_banner,
        tools=(PLUGINS,),
    ),
    Command(
        name="is_enabled",
        run=_is_enabled,
        usage="<plugin1> [ <plugin2>] [--offline] [--online]",
        description="Health check that exits with a non-zero code if provided plugins are not"
        " enabled on target node",
        section="observability_and_health_checks",
        least=1,
        most=None,
        switches=_PLUGIN_SWITCHES,
        banner=lambda call: "Asking node {} if plugin{} {} {} enabled...".format(
            call.node,
            "s" if len(call.arguments) > 1 else "",
            ", ".join(call.arguments),
            "are" if len(call.arguments) > 1 else "is",
        ),
        tools=(PLUGINS,),
    ),
    *(
        Command(
            name=name,
            run=_change_plugins,
            usage=f"<plugin1> [ <plugin2>] {all_of}[--offline] [--online]",
            description=description,
            section="plugin_management",
            most=None,
            switches=_PLUGIN_SWITCHES,
            tools=(PLUGINS,),
        )
        for name, description, all_of in (
            ("enable", "Enables one or more plugins", "| --all "),
            ("disable", "Disables one or more plugins", "| --all "),
            ("set", "Enables one or more plugins, disables the rest", ""),
        )
    ),
    *(_refused(*refused) for refused in _REFUSED),
)
