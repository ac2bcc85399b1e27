"""Build hook of hatchling: a wheel takes along the bill of materials, if `make sbom` has made one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

SBOM = "dist/lavender.cdx.json"


class SbomHook(BuildHookInterface[Any]):
    """Adds the file under ``.dist-info/sboms`` (PEP 770)."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Called once before a wheel is made."""
        if version == "standard" and (Path(self.root) / SBOM).exists():
            build_data["sbom_files"].append(SBOM)
