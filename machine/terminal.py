"""Standard error, which C libraries write to past Python."""

import threading

# Taken by who turns standard error away from the terminal for a moment, and by who has something to say.
TERMINAL = threading.RLock()
