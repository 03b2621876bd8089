"""A cascade in LangChain's models and agents, and in the traces, metrics and logs of operators.

Each module needs the package of its name: `middleware` and `agent_tier` those of LangChain.
"""
