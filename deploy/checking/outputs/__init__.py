"""A check's result for people and for machines: terminal, Markdown, JUnit, annotations."""

from .github import to_annotations
from .junit import to_junit
from .markdown import to_markdown
from .terminal import print_result

__all__ = ["print_result", "to_annotations", "to_junit", "to_markdown"]
