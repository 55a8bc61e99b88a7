"""gunicorn's settings in a checkout: those of the package, with ``.env`` beside this file."""

from pathlib import Path

DIRECTORY = Path(__file__).resolve().parent
_path = DIRECTORY / "forwarder" / "config" / "gunicorn_conf.py"
# Executed instead of imported: gunicorn's master would keep a module over a SIGHUP.
exec(compile(_path.read_text(encoding="utf-8"), _path, "exec"))  # noqa: S102
