"""The schemas that a deployment has at hand for `$ref`: folders of JSON files, each under a URI, read at start."""

from collections.abc import Sequence
from pathlib import Path

from engine.errors import ConfigError, InvalidRequest
from frontend.schemas.given import read_schema
from frontend.schemas.places import Documents

MAX_DOCUMENTS = 10_000


def load_documents(folders: Sequence[str]) -> Documents:
    """Of `URI=FOLDER`: what is `a/b.json` in the folder is found at the URI, followed by `a/b.json`.

    Raises ConfigError naming what cannot be read.
    """
    found: dict[str, object] = {}
    for given in folders:
        uri, equals, folder = given.rpartition("=")
        if not equals or not uri or not Path(folder).is_dir():
            raise ConfigError(f"{given} is not URI=FOLDER", field="schemas")
        for path in sorted(Path(folder).rglob("*.json")):
            if len(found) >= MAX_DOCUMENTS:
                raise ConfigError(f"{folder} holds more than {MAX_DOCUMENTS} schemas", field="schemas")
            try:
                schema = read_schema(path.read_text(encoding="utf-8"))
            except (OSError, ValueError, InvalidRequest) as error:
                raise ConfigError(f"{path} is no schema: {error}", field="schemas") from error
            found[f"{uri.removesuffix('/')}/{path.relative_to(folder).as_posix()}"] = schema
    return found.get
