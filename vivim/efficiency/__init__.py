"""The paper's efficiency study, measured again: Table IV and Fig. 7 (docs/efficiency.md)."""
