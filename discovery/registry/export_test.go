package registry

import "time"

// Limits are what a test changes of a source's limits; zero leaves one as it is.
type Limits struct {
	Progress, Answer, MuteAsk, Audit, ResumedAudit, Spread, KeepPoisoned time.Duration
	Page                                                                 int64
}

// Limit changes the limits. It comes before the first Run.
func (s *Source) Limit(l Limits) {
	limits := &s.mux.Limits
	for _, d := range []struct {
		to   *time.Duration
		from time.Duration
	}{
		{&limits.Progress, l.Progress},
		{&limits.Answer, l.Answer},
		{&limits.MuteAsk, l.MuteAsk},
		{&limits.Audit, l.Audit},
		{&limits.ResumedAudit, l.ResumedAudit},
		{&limits.Spread, l.Spread},
		{&s.keepPoisoned, l.KeepPoisoned},
	} {
		if d.from != 0 {
			*d.to = d.from
		}
	}
	if l.Page != 0 {
		limits.Page = l.Page
	}
}
