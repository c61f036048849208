"""`python3 -m proxy`: the proxy, in its container. It takes no settings but from the folder that it reads."""

from pathlib import Path

LIVE, LOG = Path("/live"), Path("/log")


def main() -> None:
    # Not at the top: the process that reads large texts imports this module too, and needs none of these.
    import asyncio

    from proxy.server import serve

    asyncio.run(serve(LIVE, LOG if LOG.is_dir() else None))


if __name__ == "__main__":
    main()
