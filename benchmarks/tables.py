"""What every benchmark prints: where and when it ran, and tables in Markdown."""

import argparse
import contextlib
import os
import platform
import re
from collections.abc import Callable
from datetime import date
from pathlib import Path


def machine() -> str:
    """The processor, its cores, and today's date."""
    cpu = platform.processor() or platform.machine()
    with contextlib.suppress(OSError, TypeError):
        cpu = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())[1]
    return f"{cpu}, {os.cpu_count()} cores, {date.today()}"


def print_table(head: list[str], rows: list[list[str]]) -> None:
    print("| " + " | ".join(head) + " |\n|" + " --- |" * len(head))
    for row in rows:
        print("| " + " | ".join(row) + " |")
    print(flush=True)


def print_tables(tables: dict[str, Callable[[bool], None]], about: str, made_with: str) -> None:
    """The command line of a benchmark: prints those of its tables that are named, each by a
    function that is told whether it is to be quick."""
    parser = argparse.ArgumentParser(description=about)
    parser.add_argument("tables", nargs="*", help=f"which of {', '.join(tables)} [all]")
    parser.add_argument("--quick", action="store_true", help="small pictures, in minutes")
    args = parser.parse_args()
    print(f"{machine()}, {made_with}\n")
    for name in args.tables or tables:
        tables[name](args.quick)
