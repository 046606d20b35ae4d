// What this binary can be before the Go runtime starts.
#ifndef SHOAL_EARLY_H
#define SHOAL_EARLY_H

#define SHOAL_MONITOR "shoal-monitor"
#define SHOAL_LAUNCH "shoal-launch"
#define SHOAL_EXEC "shoal-exec"
#define SHOAL_INIT "/dev/shoal-init"

void monitor_main(int argc, char **argv);
void init_main(int argc, char **argv);

#endif
