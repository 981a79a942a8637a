"""Which versions were measured. A module of its own: a worker need not pay for what reads them."""

from importlib.metadata import PackageNotFoundError, version


def installed(*names: str) -> dict[str, str]:
    versions: dict[str, str] = {}
    for name in names:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            versions[name] = "from the checkout"
    return versions
