"""The host prints what hooks and callbacks raise, and goes on."""
reports = []


def report(message, *, exc_info=False):
    reports.append(message)
