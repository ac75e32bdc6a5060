"""What the commands are made of: options, messages, exit codes, the parts that options ask for, the plan.

May import every other folder, heavy libraries only inside functions: ``--help`` and a wrong argument answer
at once. Nothing but the scripts on top imports from here.
"""
