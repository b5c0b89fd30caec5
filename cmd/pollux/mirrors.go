package main

import (
	"context"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"pollux/node/api"
)

// mirror is a mirror as JSON.
type mirror struct {
	Peer    string   `json:"peer"`
	Addrs   []string `json:"addrs"`
	State   string   `json:"state"`
	Version int64    `json:"version"`
	RTTMS   float64  `json:"rtt_ms"`
	Share   float64  `json:"share"`
}

func (a *app) mirrorsCommand() *cobra.Command {
	req := api.MirrorsRequest{Timeout: 15 * time.Second}
	cmd := &cobra.Command{
		Use:   "mirrors TARGET",
		Short: "Show which other nodes hold a site",
		Long: `Show which other nodes hold a site, the nearest first.

What they say is not believed: each is asked for blocks by chance, and those that
say they hold all but do not bring them are shown as partial. With --quiet only
the full ones are printed, by their peer IDs.`,
		Args: exactly(1),
		RunE: does(func(ctx context.Context, args []string) error {
			req.Target = args[0]
			svc, err := a.open(ctx)
			if err != nil {
				return err
			}
			defer svc.Close()
			show, done := a.progress()
			res, err := svc.Mirrors(ctx, req, show)
			done()
			if err != nil {
				return err
			}
			if err := a.printMirrors(res); err != nil {
				return err
			}
			for _, m := range res.Mirrors {
				if m.State != api.MirrorUnreachable {
					return nil
				}
			}
			if n := int64(len(res.Mirrors)); n > 0 {
				return fmt.Errorf("%w: %s announced, but none answers; try again when one is online", api.ErrUnreachable, count(n, "mirror is", "mirrors are"))
			}
			return fmt.Errorf("%w: no other node that holds it was found; see `pollux status` for whether this one is connected", api.ErrUnreachable)
		}),
	}
	cmd.Flags().Var((*patience)(&req.Timeout), "timeout", "end the search when nothing was heard for this `long`")
	return cmd
}

func (a *app) printMirrors(res api.MirrorsResult) error {
	if a.json {
		out := struct {
			Mirrors []mirror `json:"mirrors"`
		}{[]mirror{}}
		for _, m := range res.Mirrors {
			out.Mirrors = append(out.Mirrors, mirror{m.Peer, list(m.Addrs), m.State, m.Version, m.RTTMS, m.Share})
		}
		return a.printJSON(out)
	}
	counts := make(map[string]int64)
	for _, m := range res.Mirrors {
		counts[m.State]++
		if err := a.printMirror(m); err != nil {
			return err
		}
	}
	if a.quiet {
		return nil
	}
	line := count(counts[api.MirrorFull], "full mirror", "full mirrors")
	if n := counts[api.MirrorPartial]; n > 0 {
		line += fmt.Sprintf(", %d partial", n)
	}
	if n := counts[api.MirrorUnreachable]; n > 0 {
		line += fmt.Sprintf(", %d unreachable", n)
	}
	if res.Whole {
		line += "; this node holds it whole too"
	}
	return a.printf("%s\n", line)
}

// printMirror writes a mirror on a line; with --quiet its ID alone, if it is full.
func (a *app) printMirror(m api.Mirror) error {
	if a.quiet {
		if m.State != api.MirrorFull {
			return nil
		}
		return a.printf("%s\n", m.Peer)
	}
	state, color := m.State, yellow
	switch m.State {
	case api.MirrorFull:
		color = green
	case api.MirrorPartial:
		// Never 100 %: that would be said of a full one.
		state = fmt.Sprintf("%s %d%%", m.State, min(int(m.Share*100), 99))
	case api.MirrorUnreachable:
		color = red
	}
	pad := strings.Repeat(" ", max(0, len("partial 99% ")-len(state)))
	addr := ""
	if len(m.Addrs) > 0 {
		addr = m.Addrs[0]
	}
	return a.printf("%s%s  %9s  %s  %s\n", a.paint(os.Stdout, color, state), pad, milliseconds(m.RTTMS), m.Peer, printable(addr))
}
