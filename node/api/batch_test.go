package api

import "context"

func (b *script) StartRun(_ context.Context, _, name, service string) (RunResult, error) {
	return RunResult{}, b.note("run %s/%s", name, service)
}
func (b *script) StopRun(_ context.Context, name, service string, seq uint64) error {
	return b.note("stop run %s/%s %d", name, service, seq)
}
func (b *script) PauseSchedule(_ context.Context, name, service string, paused bool) error {
	return b.note("pause %s/%s %v", name, service, paused)
}
func (b *script) Schedules(context.Context) (ScheduleList, error) {
	return ScheduleList{}, b.note("schedules")
}
func (b *script) Sample(context.Context, SampleRequest) (SampleResult, error) {
	return SampleResult{}, b.note("sample")
}
