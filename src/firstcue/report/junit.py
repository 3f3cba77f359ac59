"""The findings as JUnit XML, so that any continuous integration shows them as tests."""

import re
from xml.etree import ElementTree

from firstcue.finding import Finding, Gate, Report
from firstcue.report.cues import judged
from firstcue.report.words import headline, shorten

SKIPPED = ("inconclusive", "not identifiable", "inferred")
_FORBIDDEN = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def junit(report: Report, gate: Gate | None = None) -> str:
    """JUnit XML: a cue that is relied on fails, one that cannot be told is skipped.

    Args:
        report: Its findings become test cases; without any, the verdict becomes the one test case.
        gate: When given, a further test case that fails with what the gate says.

    Example:
        >>> junit(Report(verdict="no shortcut found")).splitlines()[1][:22]
        '<testsuites name="firs'
    """
    suites = ElementTree.Element("testsuites", name="firstcue")
    suite = ElementTree.SubElement(suites, "testsuite", name=_text(report.title, 200))
    for finding in judged(report):
        _case(suite, finding)
    if not len(suite):
        _verdict(suite, report)
    if gate is not None:
        said = gate.failures(report)
        case = _named(suite, "gate", "firstcue.gate")
        if said:
            ElementTree.SubElement(case, "failure", message=_text(said[0], 300)).text = _text("\n".join(said))
    count = {"tests": "testcase", "failures": "testcase/failure", "skipped": "testcase/skipped"}
    for element, prefix in ((suite, ""), (suites, "testsuite/")):
        for name, path in count.items():
            element.set(name, str(len(element.findall(prefix + path))))
    ElementTree.indent(suites)
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + ElementTree.tostring(suites, encoding="unicode") + "\n"


def _case(suite: ElementTree.Element, finding: Finding) -> None:
    case = _named(suite, f"{_text(finding.id, 120)}: {finding.status}", f"firstcue.{_text(finding.cue, 80)}")
    message = _text(shorten(finding.meaning, 300))
    if finding.status == "relies":
        failure = ElementTree.SubElement(case, "failure", message=message, type=finding.severity)
        failure.text = _text(f"value {finding.value} ({finding.ci_low} to {finding.ci_high}), n = {finding.n}")
    elif finding.status in SKIPPED:
        ElementTree.SubElement(case, "skipped", message=message)


def _verdict(suite: ElementTree.Element, report: Report) -> None:
    case = _named(suite, f"verdict: {report.verdict}", "firstcue.verdict")
    kind = {"shortcut": "failure", "inconclusive": "skipped"}.get(report.verdict)
    if kind is not None:
        ElementTree.SubElement(case, kind, message=_text(headline(report), 300))


def _named(suite: ElementTree.Element, name: str, classname: str) -> ElementTree.Element:
    return ElementTree.SubElement(suite, "testcase", name=name, classname=classname, time="0")


def _text(text: str, limit: int = 0) -> str:
    """`text` with only the characters that XML admits."""
    return _FORBIDDEN.sub("\N{REPLACEMENT CHARACTER}", shorten(text, limit) if limit else text)
