"""Closed lists that nothing is held out of: there are not enough of them
or everybody uses them."""

WEEKDAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")

MONTHS = (
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
)

LIGHTS = ("full sun", "half shade", "deep shade", "bright light", "soft light")
LEVELS = ("beginner", "intermediate", "advanced")
STATUSES = ("packed", "sent", "delivered", "delayed", "returned", "cancelled", "ready")
BEDS = ("one double bed", "two single beds", "one single bed", "a bunk bed", "a queen bed")
ENGINE_GEARS = ("manual", "automatic")
