"""The league: earlier and foreign selves that a policy plays against, and how it fares; see docs/league.md."""
