package main

import (
	"context"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"pollux/node/api"
)

func (a *app) statusCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "status",
		Short: "Show what the node holds and does",
		Args:  exactly(0),
		RunE: does(func(ctx context.Context, _ []string) error {
			svc, err := a.open(ctx)
			if err != nil {
				return err
			}
			defer svc.Close()
			st, err := svc.Status(ctx)
			switch {
			case err != nil:
				return err
			case a.json:
				st.Addrs, st.Sites = list(st.Addrs), list(st.Sites)
				return a.printJSON(st)
			default:
				return a.printStatus(st, isDaemon(svc))
			}
		}),
	}
}

func (a *app) printStatus(st api.Status, live bool) error {
	a.printf("Peer      %s\n", st.Peer)
	if live {
		a.printf("Network   %s, reachability %s\n", count(int64(st.Connections), "connection", "connections"), st.Reachability)
		a.printf("Traffic   %s sent, %s received\n", size(st.Traffic.Sent), size(st.Traffic.Received))
		a.printf("Announce  %s: %s", st.Announce.Strategy, count(st.Announce.Keys, "block", "blocks"))
		if st.Announce.Queued > 0 {
			a.printf(", %s still to come", count(st.Announce.Queued, "block", "blocks"))
		}
		a.printf("\n")
	} else {
		a.printf("Network   no daemon is running; start one with `pollux daemon`\n")
	}
	a.printf("Store     %s, %s (%s on disk", count(st.Store.Blocks, "block", "blocks"), size(st.Store.Bytes), size(st.Store.DiskBytes))
	if st.Store.QuotaBytes > 0 {
		a.printf(" of %s", size(st.Store.QuotaBytes))
	}
	a.printf(")\n")
	if st.Store.QuarantinedBytes > 0 {
		a.printf("Damage    %s of damaged packs are kept; see `pollux repair`\n", size(st.Store.QuarantinedBytes))
	}
	if st.Store.ReadOnly != "" {
		a.printf("Damage    %s\n", printable(st.Store.ReadOnly))
	}
	if len(st.Sites) == 0 {
		return a.printf("Sites     none; add one with `pollux add` or `pollux follow`\n")
	}
	a.printf("Sites\n")
	for _, s := range st.Sites {
		color := yellow
		if s.State == api.StateWhole {
			color = green
		}
		state := s.State + strings.Repeat(" ", max(0, len(api.StateFetching)-len(s.State)))
		a.printf("  %s  %s  %s", a.paint(os.Stdout, color, state), printable(s.Target), size(s.Bytes))
		if s.MissingBlocks > 0 {
			a.printf(", %s missing", count(s.MissingBlocks, "block", "blocks"))
		}
		if s.Name != "" {
			a.printf("  %s", printable(s.Name))
		}
		a.printf("\n")
		if s.Error != "" {
			a.printf("    %s\n", printable(s.Error))
		}
	}
	return nil
}
