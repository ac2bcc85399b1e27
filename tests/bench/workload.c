/* The benchmark's workloads. Each prints what it did; rates are kept by absolute deadlines.
 *
 *   opens SECONDS PATH           open and close PATH as fast as it can: opens per second
 *   execs SECONDS RATE PROGRAM   run PROGRAM: count, CPU microseconds of it and its children
 *   mixed SECONDS RATE PROGRAM PATH   execs, opens, connects alike, RATE of all together: same
 *   paced SECONDS RATE PATH      open and close PATH at a RATE: same
 *   churn COUNT PROGRAM          run PROGRAM COUNT times as fast as it can
 *   victim PATH                  open PATH, then wait to be killed
 *   nothing                      exit at once
 */
#include <arpa/inet.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static double now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return t.tv_sec + t.tv_nsec * 1e-9;
}

static void sleep_until(double moment) {
  struct timespec t = {(time_t)moment, (long)((moment - (time_t)moment) * 1e9)};
  while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &t, NULL) != 0)
    ;
}

static void open_once(const char *path) {
  int fd = open(path, O_RDONLY);
  if (fd >= 0)
    close(fd);
}

static void run_once(const char *program) {
  pid_t pid = vfork();
  if (pid == 0) {
    execl(program, program, "nothing", (char *)NULL);
    _exit(127);
  }
  waitpid(pid, NULL, 0);
}

static void connect_once(void) {
  struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(9)};
  to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  int fd = socket(AF_INET, SOCK_DGRAM, 0);
  connect(fd, (struct sockaddr *)&to, sizeof to);
  close(fd);
}

static double cpu_of(int who) {
  struct rusage r;
  getrusage(who, &r);
  return r.ru_utime.tv_sec + r.ru_stime.tv_sec + (r.ru_utime.tv_usec + r.ru_stime.tv_usec) * 1e-6;
}

static void report(long count, double cpu) { printf("%ld %.0f\n", count, cpu * 1e6); }

int main(int argc, char **argv) {
  const char *what = argc > 1 ? argv[1] : "nothing";
  if (!strcmp(what, "opens")) {
    double begin = now(), seconds = atof(argv[2]), passed;
    long count = 0;
    do {
      for (int i = 0; i < 1000; i++)
        open_once(argv[3]);
      count += 1000;
      passed = now() - begin;
    } while (passed < seconds);
    printf("%.0f %ld\n", count / passed, count);
  } else if (!strcmp(what, "execs") || !strcmp(what, "mixed")) {
    double begin = now(), seconds = atof(argv[2]), rate = atof(argv[3]);
    int mixed = *what == 'm';
    long count = 0, planned = (long)(seconds * rate);
    for (; count < planned; count++) {
      sleep_until(begin + count / rate);
      if (!mixed || count % 3 == 0)
        run_once(argv[4]);
      else if (count % 3 == 1)
        open_once(argv[5]);
      else
        connect_once();
    }
    report(count, cpu_of(RUSAGE_SELF) + cpu_of(RUSAGE_CHILDREN));
  } else if (!strcmp(what, "paced")) {
    double begin = now(), seconds = atof(argv[2]), rate = atof(argv[3]);
    long count = 0, planned = (long)(seconds * rate);
    for (; count < planned; count++) {
      if (count % 10 == 0)
        sleep_until(begin + count / rate);
      open_once(argv[4]);
    }
    report(count, cpu_of(RUSAGE_SELF));
  } else if (!strcmp(what, "churn")) {
    for (long left = atol(argv[2]); left > 0; left--)
      run_once(argv[3]);
  } else if (!strcmp(what, "victim")) {
    open_once(argv[2]);
    pause();
  }
  return 0;
}
