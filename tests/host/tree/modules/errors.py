"""The host prints what hooks and callbacks raise, and goes on."""
reports = []
displayed = []


def report(message, *, exc_info=False):
    reports.append(message)


def display(error, task, *, full_traceback=False):
    displayed.append(f"{task}: {error}")
