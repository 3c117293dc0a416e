"""The committed state of an agent's directory, for commands that run beside the agent."""

from pathlib import Path

from edge_agent.adapters.state_store import FileStateStore
from edge_agent.commits import restore_state
from edge_agent.core.agent_state import AgentState


def load_state(directory: Path) -> AgentState:
    """Read what was committed last; raises AgentError when it cannot be read."""
    return restore_state(FileStateStore(directory))
