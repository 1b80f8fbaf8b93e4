"""Machine unlearning: exact, approximate, certified and private methods behind one interface, and their audits."""

from unlearnlib.registry import Unlearned, methods, unlearn, unlearn_many

__version__ = "0.1.0"
__all__ = ["Unlearned", "methods", "unlearn", "unlearn_many"]
