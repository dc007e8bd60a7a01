"""`penstock serve` and `penstock config`: what stands on their command lines, and nothing of what it does."""

import sys
from argparse import ArgumentParser, Namespace, RawDescriptionHelpFormatter

from penstock_broker import config
from penstock_broker.config import ConfigError, Given, Loaded
from penstock_broker.server import node

FLAGS = {
    "--data": ("storage.data", "DIR"),
    "--host": ("server.host", "ADDRESS"),
    "--port": ("server.port", "PORT"),
    "--http-host": ("server.http_host", "ADDRESS"),
    "--http-port": ("server.http_port", "PORT"),
    "--durability": ("storage.durability", "MODE"),
}
"""Flags that set one setting; every other one is reached by `--set`."""

EPILOG = """\
Settings come from flags, then the environment (PENSTOCK_SECTION__KEY), then the file, then defaults;
`penstock config show --origin` lists them all. Exit codes: 0 stopped by SIGTERM or SIGINT, 1 cannot start,
2 usage, 4 storage failed, 5 failed assert.
"""


def command(argv: list[str]) -> int:
    """`penstock serve …`: run a broker; the exit code."""
    parser = _parser("penstock serve", "Run a broker.")
    parser.add_argument("--check-config", action="store_true", help="read the settings, say if they are good")
    options = parser.parse_args(argv)
    try:
        loaded = _load(options)
    except ConfigError as error:
        return _refuse(error)
    if options.check_config:
        print("the configuration is good")
        return 0
    return node.serve(loaded.config)


def config_command(argv: list[str]) -> int:
    """`penstock config show …`: print the settings in force; the exit code."""
    parser = _parser("penstock config", "Show the settings a broker would run with.")
    parser.add_argument("action", choices=["show"])
    parser.add_argument("--origin", action="store_true", help="say where each value comes from")
    parser.add_argument("--json", action="store_true", help="as JSON instead of TOML")
    options = parser.parse_args(argv)
    try:
        loaded = _load(options)
    except ConfigError as error:
        return _refuse(error)
    print((config.as_json if options.json else config.as_toml)(loaded, origin=options.origin))
    return 0


def _parser(program: str, about: str) -> ArgumentParser:
    parser = ArgumentParser(
        prog=program, description=about, epilog=EPILOG, formatter_class=RawDescriptionHelpFormatter
    )
    for flag, (key, metavar) in FLAGS.items():
        setting = config.SETTINGS[key]
        shown = setting.kind.show(setting.default).strip('"')
        parser.add_argument(flag, dest=flag, metavar=metavar, help=f"{setting.about} ({shown})")
    parser.add_argument("--config", metavar="FILE", help="TOML file with settings")
    parser.add_argument(
        "--set",
        dest="assignments",
        metavar="SECTION.KEY=VALUE",
        action="append",
        default=[],
        help="any setting; may be repeated",
    )
    return parser


def _load(options: Namespace) -> Loaded:
    values = vars(options)
    flags = [Given(key, values[flag], flag) for flag, (key, _) in FLAGS.items() if values[flag] is not None]
    return config.load([*map(config.assignment, options.assignments), *flags], options.config)


def _refuse(error: ConfigError) -> int:
    print(f"penstock: {error}", file=sys.stderr)
    return node.Exit.CANNOT_START


if __name__ == "__main__":
    sys.exit(command(sys.argv[1:]))
