package node

import (
	"context"

	"pollux/node/api"
	"pollux/transport"
	"pollux/transport/exchange"
)

// Mirrors implements api.Service.
func (n *Node) Mirrors(ctx context.Context, req api.MirrorsRequest, progress func(api.Progress)) (api.MirrorsResult, error) {
	root, err := parseRoot(req.Target, "mirrored")
	if err != nil {
		return api.MirrorsResult{}, err
	}
	net, err := n.network()
	if err != nil {
		return api.MirrorsResult{}, err
	}
	// Nothing leads to the nodes that are fetched: they go at the next collection.
	hold := n.store.Hold()
	defer hold.Release()
	found, err := net.Mirrors(ctx, exchange.SurveyRequest{
		Store: hold, Root: root, Bases: n.bases(), Timeout: req.Timeout, Progress: surveying(progress),
	})
	if err != nil {
		return api.MirrorsResult{}, diskError(err)
	}
	s, _ := n.sites.find(root)
	res := api.MirrorsResult{Mirrors: []api.Mirror{}, Whole: s.Whole}
	for _, m := range found {
		res.Mirrors = append(res.Mirrors, apiMirror(m))
	}
	return res, nil
}

// surveying translates progress.
func surveying(show func(api.Progress)) func(exchange.SurveyProgress) {
	if show == nil {
		return nil
	}
	return func(p exchange.SurveyProgress) {
		if p.Probed == 0 {
			show(api.Progress{Phase: "looking", Bytes: p.Received})
			return
		}
		show(api.Progress{Phase: "hearing", Peers: int64(p.Probed)})
	}
}

func apiMirror(m transport.Mirror) api.Mirror {
	out := api.Mirror{
		Peer: m.ID, Addrs: m.Addrs, State: api.MirrorUnreachable,
		RTTMS: float64(m.RTT.Microseconds()) / 1000, Share: m.Share,
	}
	switch m.Standing {
	case exchange.Full:
		out.State = api.MirrorFull
	case exchange.Partial:
		out.State = api.MirrorPartial
	}
	return out
}
