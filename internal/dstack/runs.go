package dstack

import (
	"context"
	"time"
)

const (
	// pageOfRuns is the most that the API gives at once.
	pageOfRuns = 100
	// maxPageOfRuns bounds one page, in bytes: each run comes with its whole spec.
	maxPageOfRuns = 32 << 20
	// maxRuns bounds how many runs are looked at.
	maxRuns = 10_000
)

// Run is a run, as far as the operator reads it. Its spec is not kept: it holds
// what users may have secret.
type Run struct {
	Project     string
	Name        string
	SubmittedAt time.Time
}

// RunsQuery says which runs are asked for.
type RunsQuery struct {
	// OnlyActive leaves out runs that have ended.
	OnlyActive bool
	// Since leaves out what was submitted before, if it is not zero.
	Since time.Time
}

type listRuns struct {
	OnlyActive      bool       `json:"only_active"`
	IncludeJobs     bool       `json:"include_jobs"`
	Limit           int        `json:"limit"`
	PrevSubmittedAt *time.Time `json:"prev_submitted_at,omitempty"`
	PrevRunID       string     `json:"prev_run_id,omitempty"`
}

type listedRun struct {
	ID          string    `json:"id"`
	Project     string    `json:"project_name"`
	SubmittedAt time.Time `json:"submitted_at"`
	Spec        struct {
		Name string `json:"run_name"`
	} `json:"run_spec"`
}

// Runs lists runs of all projects, the youngest first, as a global administrator
// sees them: POST /api/runs/list. All is false when there are more than are looked
// at. A server leaves out runs that it cannot read itself any more.
func (c *Client) Runs(ctx context.Context, q RunsQuery) (runs []Run, all bool, err error) {
	page := listRuns{OnlyActive: q.OnlyActive, Limit: pageOfRuns}
	for {
		var listed []listedRun
		if err := c.ask(ctx, question{"/api/runs/list", c.Token, page, maxPageOfRuns}, &listed); err != nil {
			return nil, false, err
		}
		for _, r := range listed {
			if r.SubmittedAt.Before(q.Since) {
				return runs, true, nil
			}
			runs = append(runs, Run{Project: r.Project, Name: r.Spec.Name, SubmittedAt: r.SubmittedAt})
		}
		switch {
		case len(listed) == 0:
			return runs, true, nil
		case len(runs) >= maxRuns:
			return runs, false, nil
		}
		last := listed[len(listed)-1]
		page.PrevSubmittedAt, page.PrevRunID = &last.SubmittedAt, last.ID
	}
}
