"""MITRE ATLAS techniques that drivers and rules name (v5.6)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

TECHNIQUES: Final[Mapping[str, str]] = {
    "AML.T0005": "Create Proxy AI Model",
    "AML.T0005.001": "Train Proxy via Replication",
    "AML.T0015": "Evade AI Model",
    "AML.T0024": "Exfiltration via AI Inference API",
    "AML.T0024.000": "Infer Training Data Membership",
    "AML.T0024.001": "Invert AI Model",
    "AML.T0024.002": "Extract AI Model",
    "AML.T0029": "Denial of AI Service",
    "AML.T0031": "Erode AI Model Integrity",
    "AML.T0034": "Cost Harvesting",
    "AML.T0034.000": "Excessive Queries",
    "AML.T0034.001": "Resource-Intensive Queries",
    "AML.T0040": "AI Model Inference API Access",
    "AML.T0042": "Verify Attack",
    "AML.T0043": "Craft Adversarial Data",
    "AML.T0043.000": "White-Box Optimization",
    "AML.T0043.001": "Black-Box Optimization",
    "AML.T0043.002": "Black-Box Transfer",
    "AML.T0043.003": "Manual Modification",
    "AML.T0043.004": "Insert Backdoor Trigger",
    "AML.T0046": "Spamming AI System with Chaff Data",
}


def title(technique: str) -> str:
    """Its id and, where it is known, its name."""
    name = TECHNIQUES.get(technique)
    return f"{technique} {name}" if name else technique
