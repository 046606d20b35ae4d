package compose

import (
	"reflect"
	"strings"
	"testing"
	"time"

	"shoal/consensus/job"
)

func number(n int) *int { return &n }

func TestBatchIsReadInAllItsForms(t *testing.T) {
	for text, want := range map[string]job.Service{
		"deploy: {mode: replicated-job, replicas: 3}": {Mode: job.ReplicatedJob, Replicas: 3},
		"deploy: {mode: global-job}":                  {Mode: job.GlobalJob},
		"x-batch: {completions: 6, parallelism: 2, retries: 1, max_failures: 4, backoff: 2s, max_backoff: 1m, deadline: 1d12h, ttl: 7d, history: {successful: 1, failed: 2}}": {
			Mode: job.ReplicatedJob, Replicas: 6, Batch: &job.Batch{Parallelism: 2, Retries: number(1), MaxFailures: 4, Backoff: 2 * time.Second,
				MaxBackoff: time.Minute, Deadline: 36 * time.Hour, TTL: 7 * 24 * time.Hour, KeepComplete: 1, KeepFailed: 2}},
		"restart: \"no\"\n    x-batch: {}":       {Mode: job.ReplicatedJob, Replicas: 1, Batch: &job.Batch{Retries: number(0)}},
		"restart: on-failure:5\n    x-batch: {}": {Mode: job.ReplicatedJob, Replicas: 1, Batch: &job.Batch{Retries: number(5)}},
		"restart: on-failure\n    x-batch: {}":   {Mode: job.ReplicatedJob, Replicas: 1},
		"deploy: {mode: replicated-job, restart_policy: {condition: on-failure, max_attempts: 2, delay: 3s}}": {
			Mode: job.ReplicatedJob, Replicas: 1, Batch: &job.Batch{Retries: number(2), Backoff: 3 * time.Second}},
		"x-batch: {exit_codes: {success: 3, retry: [75], fail: [\"64-78\", 1]}}": {Mode: job.ReplicatedJob, Replicas: 1, Batch: &job.Batch{Exits: &job.ExitCodes{
			Success: []job.CodeRange{{From: 3, To: 3}}, Retry: []job.CodeRange{{From: 75, To: 75}}, Fail: []job.CodeRange{{From: 1, To: 1}, {From: 64, To: 78}}}}},
		"x-schedule: \"@daily\"": {Mode: job.ReplicatedJob, Replicas: 1, Schedule: &job.Schedule{Cron: "@daily"}},
		"x-schedule: {cron: \"5 4 * * *\", time_zone: Europe/Berlin, overlap: replace, missed: skip, start_deadline: 10m, paused: true, history: {failed: 9}}": {
			Mode: job.ReplicatedJob, Replicas: 1, Batch: &job.Batch{KeepFailed: 9}, Schedule: &job.Schedule{Cron: "5 4 * * *", TimeZone: "Europe/Berlin",
				Overlap: job.OverlapReplace, Missed: job.MissedSkip, StartDeadline: 10 * time.Minute, Paused: true}},
		"deploy: {resources: {limits: {cpus: \"0.5\"}}}\n    x-autoscale: {max: 5, cpu: 60%, tolerance: 5, up: {cooldown: 10s, step: 2}, metrics: [{port: 90, name: q, labels: {a: b}, type: sum, target: 2.5}]}": {
			Mode: job.Replicated, Replicas: 1, Autoscale: &job.Autoscale{Min: 1, Max: 5, CPU: 60, Tolerance: 5, Up: job.ScaleLimit{Cooldown: 10 * time.Second, Step: 2},
				Metrics: []job.Metric{{Port: 90, Name: "q", Labels: map[string]string{"a": "b"}, Kind: job.MetricSum, Target: 2.5}}}},
	} {
		spec, _, err := load(t, "services:\n  web:\n    image: busybox\n    "+text+"\n")
		if err != nil {
			t.Errorf("%s: %v", text, err)
			continue
		}
		s := spec.Services[0]
		got := job.Service{Mode: s.Mode, Replicas: s.Replicas, Batch: s.Batch, Schedule: s.Schedule, Autoscale: s.Autoscale}
		if !reflect.DeepEqual(got, want) {
			t.Errorf("%s:\n got  %+v\n want %+v", text, got, want)
		}
		if s.IsBatch() && s.Restart.Policy != job.RestartNever {
			t.Errorf("%s: its node would restart it", text)
		}
	}
}

func TestBatchRefusals(t *testing.T) {
	for text, want := range map[string]string{
		"restart: always\n    x-batch: {}":                                                            "services.web.restart: \"always\" never lets a batch end",
		"deploy: {mode: replicated-job, restart_policy: {condition: any}}":                            "never lets a batch end",
		"deploy: {mode: replicated}\n    x-batch: {}":                                                 "services.web.x-batch: the service has mode replicated",
		"deploy: {mode: global-job}\n    x-batch: {completions: 2}":                                   "completes once on every node",
		"deploy: {mode: replicated-job, replicas: 3}\n    x-batch: {completions: 2}":                  "`replicas` or `scale` says it too",
		"restart: \"no\"\n    x-batch: {retries: 2}":                                                  "the restart policy says it too",
		"x-batch: {completions: 0}":                                                                   "0 is not within 1 and 10000",
		"x-batch: {retries: many}":                                                                    "many is not a whole number",
		"x-batch: {deadline: 5 minutes}":                                                              "is not a duration such as 90s, 2h or 7d",
		"x-batch: {exit_codes: {fail: [256]}}":                                                        "\"256\" is no exit code",
		"x-batch: {exit_codes: {fail: [\"0-3\"]}}":                                                    "0 is always success",
		"x-batch: {colour: red}":                                                                      "services.web.x-batch.colour",
		"x-schedule: \"61 * * * *\"":                                                                  "minute \"61\"",
		"x-schedule: {cron: \"@daily\", time_zone: Mars}":                                             "time zone \"Mars\" is not known",
		"x-schedule: {cron: \"@daily\", overlap: maybe}":                                              "use forbid, allow or replace",
		"deploy: {mode: global-job}\n    x-schedule: {cron: \"@daily\", overlap: allow}":              "a node has one task",
		"deploy: {mode: global}\n    x-schedule: \"@daily\"":                                          "the service has mode global",
		"x-autoscale: {max: 5, cpu: 50}":                                                              "this one reserves nothing",
		"x-autoscale: {max: 5}":                                                                       "there is nothing to scale by",
		"x-autoscale: {min: 3, max: 2, metrics: [{name: q, port: 1, target: 1}]}":                     "min 3 and max 2",
		"x-autoscale: {max: 2, metrics: [{name: q, target: 1}]}":                                      "port: is missing",
		"x-autoscale: {max: 2, metrics: [{name: q, port: 1}]}":                                        "is not above 0",
		"x-autoscale: {max: 2, cpu: fast}":                                                            "is not a share such as 60%",
		"deploy: {mode: global}\n    x-autoscale: {max: 2, metrics: [{name: q, port: 1, target: 1}]}": "only a replicated service",
		"depends_on: {cron: {condition: service_completed_successfully}}\n  cron:\n    image: c\n    x-schedule: \"@daily\"": "never completes for good",
	} {
		_, _, err := load(t, "services:\n  web:\n    image: busybox\n    "+text+"\n")
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", text, err, want)
		}
	}
}
