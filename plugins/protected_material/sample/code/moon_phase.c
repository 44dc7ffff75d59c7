/* Written for Sluicegate and dedicated to the public domain (CC0 1.0). */

#include <math.h>
#include <stdio.h>

static const char *const NAMES[] = {
    "new moon", "waxing crescent", "first quarter", "waxing gibbous",
    "full moon", "waning gibbous", "last quarter", "waning crescent",
};

/* Days since a known new moon, 2000-01-06 18:14 UTC, for a Julian day. */
static double age_of_moon(double julian_day)
{
    const double synodic_month = 29.530588853;
    double age = fmod(julian_day - 2451550.25972, synodic_month);

    return age < 0.0 ? age + synodic_month : age;
}

static const char *name_of_phase(double julian_day)
{
    int eighth = (int)floor(age_of_moon(julian_day) / 29.530588853 * 8.0 + 0.5);

    return NAMES[eighth % 8];
}

int main(int argc, char **argv)
{
    double julian_day;

    if (argc != 2 || sscanf(argv[1], "%lf", &julian_day) != 1) {
        fprintf(stderr, "usage: %s JULIAN_DAY\n", argv[0]);
        return 2;
    }
    printf("%s\n", name_of_phase(julian_day));
    return 0;
}
