"""`make campaign NAME=...`: run one long, seeded campaign of this folder and print its table."""

import runpy
import sys
from pathlib import Path


def main() -> int:
    """Run the campaign named on the command line; the rest of the line goes to it."""
    folder = Path(__file__).parent
    names = sorted(path.stem for path in folder.glob("*.py") if not path.stem.startswith("_"))
    if len(sys.argv) < 2 or sys.argv[1] not in names:
        print(f"no campaign '{' '.join(sys.argv[1:2])}'; choose one of: {', '.join(names)}", file=sys.stderr)
        return 2
    name = sys.argv[1]
    sys.argv = [f"campaigns.{name}", *sys.argv[2:]]
    sys.path.insert(0, str(folder.parent))
    runpy.run_path(str(folder / f"{name}.py"), run_name="__main__")
    return 0


if __name__ == "__main__":
    sys.exit(main())
