"""The orders API of the demo by itself, to try things on: python sample_config/flaky_api.py --port 8765."""

from __future__ import annotations

import argparse

from monitor_resilient.demo.flaky_api import TOKEN, FlakyApi


def main() -> None:
    """Serve until Ctrl-C."""
    parser = argparse.ArgumentParser(description="A flaky orders API on loopback.")
    parser.add_argument("--port", type=int, default=8765)
    parser.add_argument("--seed", type=int, default=7)
    options = parser.parse_args()
    api = FlakyApi(options.port, seed=options.seed)
    print(f"flaky API at {api.url}/orders (token: {TOKEN}); Ctrl-C ends it", flush=True)
    try:
        api.serve_forever()
    except KeyboardInterrupt:
        api.server_close()


if __name__ == "__main__":
    main()
