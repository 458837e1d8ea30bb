"""Who runs where, and why the others wait: `plan(snapshot) -> Plan`. Pure; see README.md for the picture."""

from mainspring.scheduler.apply import apply_plan
from mainspring.scheduler.fingerprint import fingerprint
from mainspring.scheduler.fit import would_fit, would_one_fit
from mainspring.scheduler.plan import plan
from mainspring.scheduler.planner import Planner
from mainspring.scheduler.requests import key_of as request_key
from mainspring.scheduler.standings import standings
from mainspring.scheduler.why import why

__all__ = ["Planner", "apply_plan", "fingerprint", "plan", "request_key", "standings", "why", "would_fit", "would_one_fit"]
