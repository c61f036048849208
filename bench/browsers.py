"""What pages of several sites get of the endpoint in headless Chromium, as a table and as a picture.

Run: `python -m bench.browsers`. It needs Chromium (on Debian: apt-get install chromium), and starts the parts
of the endpoint in a Docker network of their own.

Without API keys and with them, the same is asked by a page of a site that `corsOrigins` names, of the
browser's own machine, of another site, of another machine in the network, and of a site whose name leads to
the endpoint.
"""

import argparse
import subprocess
from pathlib import Path

from bench.stack import table
from common import main_guard
from offline import clients
from tests.support import fast_engine
from tests.support.browser import LISTED, MISSING, chromium, sites_of
from tests.support.way import Way

PICTURE = Path(__file__).with_suffix(".png")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--picture", type=Path, default=PICTURE, help=f"PNG to write (default: {PICTURE})")
    options = parser.parse_args()
    program = chromium()
    if program is None:
        raise SystemExit(MISSING)
    packages = clients.install().modules
    with Way() as way, sites_of(way, packages) as sites:
        way.origins = (sites.origin(LISTED),)
        way.start_engine("vllm", Path(fast_engine.__file__), FAST_TOKENS="0.05", FAST_KEEP="1000")
        way.start()
        rows = sites.seen(options.picture.resolve())
    version = subprocess.run([program, "--version"], capture_output=True, text=True, check=True).stdout
    print(f"{version.strip()}, headless; N = 1 each\n")
    header = ("keys", "page of", "asks", "gets", "engine asked")
    said = [[row.phase, row.site, row.what, row.got, "yes" if row.engine else "no"] for row in rows]
    print(table(header, said))
    print(f"\nThe picture: {options.picture}")


if __name__ == "__main__":
    main_guard(main)
