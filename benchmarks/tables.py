"""What every benchmark prints: where and when it ran, and tables in Markdown."""

import contextlib
import os
import platform
import re
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
