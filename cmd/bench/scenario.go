//go:build linux

package main

import (
	"context"
	"fmt"
	"math"
	"syscall"
	"time"
)

// scenario is a question about transfers: some runs, and what is asked of them.
type scenario struct {
	name  string
	about string
	rtt   time.Duration // between any two machines; 0: loopback, nothing is emulated
	loss  float64       // share of packets lost
	site  source
	next  source // the site's next version, for updates
	other source // a second site, that the seeds hold as well
	// hostile is the line of a further machine, that of peers which do harm. Zero: none.
	hostile rates
	limit   time.Duration // for each run, preparation included
	rounds  int           // of all runs, at least; on loopback of those of peers too
	runs    []run         // in order
	peers   []run         // the same with other programs, after those
	asks    []ask
}

// run is one measurement of a scenario, on machines of its own.
type run struct {
	label   string
	seeds   []rates
	mirrors []rates
	action  func(context.Context, *world, results) (measure, error)
}

// ask is a figure that a scenario is to reach.
type ask struct {
	text  string
	unit  string
	least bool // the figure is to be at least the limit, not at most
	// figure computes it, and its limit, from the runs. NaN: a run is missing.
	figure func(results) (got, limit float64)
}

// measure is what a run measured. 0 is what it could not.
type measure struct {
	Seconds    float64 `json:"seconds"`     // from the command's start to its end; the slowest mirror's
	Files      int64   `json:"files"`       // in the site
	Raw        int64   `json:"raw"`         // bytes of the site's files
	Wire       int64   `json:"wire"`        // bytes of IP packets that reached a mirror, on average
	Received   int64   `json:"received"`    // bytes that a mirror's command counted, on average
	SeedSent   int64   `json:"seed_sent"`   // bytes of IP packets that the seeds sent
	SeedPeak   int64   `json:"seed_peak"`   // most resident memory of a seed, bytes
	MirrorPeak int64   `json:"mirror_peak"` // and of a mirror
	Pages      int     `json:"pages,omitempty"`
	PageP50    float64 `json:"page_p50,omitempty"` // seconds
	PageP95    float64 `json:"page_p95,omitempty"`
	Share      float64 `json:"share,omitempty"` // of a fair share, what the site got that got less
}

// results are a scenario's measures so far, by the label of the run.
type results map[string]measure

// of returns a field of a run, as a number, or NaN.
func (r results) of(label string, field func(measure) float64) float64 {
	m, ok := r[label]
	if !ok {
		return math.NaN()
	}
	return field(m)
}

func (r results) seconds(label string) float64 {
	return r.of(label, func(m measure) float64 { return m.Seconds })
}
func (r results) wire(label string) float64 {
	return r.of(label, func(m measure) float64 { return float64(m.Wire) })
}
func (r results) ratio(label string) float64 {
	return r.of(label, func(m measure) float64 { return float64(m.Wire) / float64(m.Raw) })
}

// verdict says whether the figure is reached: "met", "missed", or "unknown".
func (a ask) verdict(r results) string {
	got, limit := a.figure(r)
	switch {
	case math.IsNaN(got) || math.IsNaN(limit):
		return "unknown"
	case a.least && got >= limit, !a.least && got <= limit:
		return "met"
	default:
		return "missed"
	}
}

// The labels of runs that asks and actions refer to.
const (
	ours        = "pollux"
	oneSeed     = "one seed"  // the same, from a single seed as fast as all together
	alone       = "alone"     // the same, with a single mirror
	lookedUp    = "looked up" // the same, and the mirror has to find the seed in the DHT, and to connect
	undisturbed = "undisturbed"
	twoMirrors  = "two mirrors" // the same, each site on a mirror of its own
	cold        = "cold packs"  // the same, and no page of the seed's files is in memory
	killed      = "killed"
	stopped     = "stopped"
	viaRsync    = "rsync"
	viaTorrent  = "libtorrent"
	viaKubo     = "kubo"
)

// The same with another program.

func withRsync(seeds, mirrors []rates) run { return run{viaRsync, seeds, mirrors, rsync} }

func withTorrent(seeds, mirrors []rates) run {
	return run{viaTorrent, seeds, mirrors, fetchWith(torrentProgram)}
}

func withKubo(seeds, mirrors []rates) run {
	return run{viaKubo, seeds, mirrors, fetchWith(kuboProgram)}
}

func atMost(seconds float64) ask {
	return ask{text: "time", unit: "s", figure: func(r results) (float64, float64) { return r.seconds(ours), seconds }}
}

func wireAtMost(share float64) ask {
	return ask{text: "wire", unit: "× raw", figure: func(r results) (float64, float64) { return r.ratio(ours), share }}
}

func timeOf(label string, share float64) ask {
	return ask{text: "time, of that of " + label, unit: "×",
		figure: func(r results) (float64, float64) { return r.seconds(ours) / r.seconds(label), share }}
}

func lost(label string) ask {
	return ask{text: "time lost, seed " + label, unit: "s",
		figure: func(r results) (float64, float64) { return r.seconds(label) - r.seconds(undisturbed), 1.5 }}
}

// likeOne asks of several seeds, behind a mirror's line of so many Mbit/s, that they send
// little more than one, in %, and in about the time that the line takes.
func likeOne(line float64, rtt time.Duration, twice float64) []ask {
	return []ask{
		{text: fmt.Sprintf("time, for 1.2 × one seed's wire/%g Mbit/s + 4 RTT", line), unit: "s", figure: func(r results) (float64, float64) {
			return r.seconds(ours), 1.2*r.wire(oneSeed)*8/(line*1e6) + 4*rtt.Seconds()
		}},
		{text: "duplicates: received beyond what one seed sends", unit: "%", figure: func(r results) (float64, float64) {
			received := func(m measure) float64 { return float64(m.Received) }
			return 100 * (r.of(ours, received)/r.of(oneSeed, received) - 1), twice
		}},
	}
}

func peak(side string, field func(measure) int64) ask {
	return ask{text: "peak memory of the " + side, unit: "MB", figure: func(r results) (float64, float64) {
		return r.of(ours, func(m measure) float64 { return float64(field(m)) / 1e6 }), 200
	}}
}

func share(label string) ask {
	return ask{text: "least share, of a fair one, " + label, unit: "%", least: true, figure: func(r results) (float64, float64) {
		return 100 * r.of(label, func(m measure) float64 { return m.Share }), 60
	}}
}

// same makes n lines of the same rates.
func same(n int, line rates) []rates {
	out := make([]rates, n)
	for i := range out {
		out[i] = line
	}
	return out
}

// repeated is how often runs are done that only the machine holds up, as their times vary, and
// those that hardly differ.
const repeated = 3

var (
	loopback = same(1, rates{})
	fast     = same(1, rates{100, 100}) // Mbit/s
)

func updateOf(name, site, next string, asks ...ask) scenario {
	return scenario{
		name: name, about: "the next version, " + site + " → " + next + ": 100 Mbit/s, 100 ms RTT, one seed",
		rtt: 100 * time.Millisecond, site: siteNamed(site), next: siteNamed(next), limit: 3 * time.Minute,
		runs:  []run{{ours, fast, fast, updateWith(polluxProgram)}},
		peers: []run{withRsync(fast, fast), {viaKubo, fast, fast, updateWith(kuboProgram)}},
		asks:  asks,
	}
}

// scenarios are all that there are.
var scenarios = []scenario{
	{
		name: "one-seed", about: "jdk-1: 100 Mbit/s, 100 ms RTT, one seed; what `pollux get` then writes equals the source",
		rtt: 100 * time.Millisecond, site: siteNamed("jdk-1"), limit: 5 * time.Minute,
		runs:  []run{{ours, fast, fast, followAndCompare}},
		peers: []run{withRsync(fast, fast), withTorrent(fast, fast), withKubo(fast, fast)},
		asks:  []ask{wireAtMost(0.12), atMost(7)},
	},
	{
		name: "lossy", about: "python-1: 100 Mbit/s, 100 ms RTT, one of 1,000 packets lost, one seed",
		rtt: 100 * time.Millisecond, loss: 0.001, site: siteNamed("python-1"), limit: 5 * time.Minute,
		runs:  []run{{ours, fast, fast, follow}},
		peers: []run{withRsync(fast, fast)},
	},
	updateOf("update", "jdk-1", "jdk-2", wireAtMost(0.004), atMost(3)),
	updateOf("update-python", "python-1", "python-2", wireAtMost(0.01), atMost(2)),
	updateOf("update-nodejs", "nodejs-1", "nodejs-2", wireAtMost(0.01), atMost(2)),
	{
		name: "small", about: "1,200 files of 16 MB in all, from jdk-1: 100 Mbit/s, 300 ms RTT, one seed",
		rtt: 300 * time.Millisecond, site: part("jdk-1", 1200, 16e6), limit: 2 * time.Minute,
		runs:  []run{{ours, fast, fast, follow}, {lookedUp, same(2, rates{100, 100}), fast, followBeside(0, nil)}},
		peers: []run{withRsync(fast, fast), withTorrent(fast, fast), withKubo(fast, fast)},
		asks: []ask{atMost(4), {text: "time, looked up", unit: "s", figure: func(r results) (float64, float64) {
			return r.seconds(lookedUp), 4
		}}},
	},
	{
		name: "four-seeds", about: "jdk-1: four seeds of 5 Mbit/s up, a mirror of 20 Mbit/s, 50 ms RTT",
		rtt: 50 * time.Millisecond, site: siteNamed("jdk-1"), limit: 5 * time.Minute,
		runs: []run{
			{oneSeed, same(1, rates{100, 20}), same(1, rates{20, 20}), follow},
			{ours, same(4, rates{100, 5}), same(1, rates{20, 20}), follow},
		},
		peers: []run{
			withTorrent(same(4, rates{100, 5}), same(1, rates{20, 20})),
			withKubo(same(4, rates{100, 5}), same(1, rates{20, 20})),
		},
		asks: likeOne(20, 50*time.Millisecond, 1),
	},
	{
		name: "unequal-seeds", about: "jdk-1: seeds of 20, 5 and 1 Mbit/s up, a mirror of 100 Mbit/s, 50 ms RTT",
		rtt: 50 * time.Millisecond, site: siteNamed("jdk-1"), limit: 5 * time.Minute, rounds: repeated,
		runs: []run{
			{oneSeed, same(1, rates{100, 26}), fast, follow},
			{ours, []rates{{100, 20}, {100, 5}, {100, 1}}, fast, follow},
		},
		peers: []run{withTorrent([]rates{{100, 20}, {100, 5}, {100, 1}}, fast)},
		asks: []ask{{text: "rate, of the sum (one seed's wire / time)", unit: "%", least: true, figure: func(r results) (float64, float64) {
			return 100 * r.wire(oneSeed) * 8 / r.seconds(ours) / 26e6, 85
		}}},
	},
	{
		name: "many-seeds", about: "python-1: twelve seeds and a mirror of 20 Mbit/s, 50 ms RTT: the mirror's line is the narrow one",
		rtt: 50 * time.Millisecond, site: siteNamed("python-1"), limit: 5 * time.Minute, rounds: repeated,
		runs: []run{
			{oneSeed, same(1, rates{20, 20}), same(1, rates{20, 20}), follow},
			{ours, same(12, rates{20, 20}), same(1, rates{20, 20}), follow},
		},
		peers: []run{withTorrent(same(12, rates{20, 20}), same(1, rates{20, 20}))},
		// What is packed otherwise counts too: twelve daemons have less time to pack than one.
		asks: likeOne(20, 50*time.Millisecond, 10),
	},
	{
		name: "loopback-files", about: "all sites of the directory as one, at least 30,000 files and 400 MB: loopback",
		site: all(30_000, 400e6), limit: 5 * time.Minute, rounds: repeated,
		runs:  []run{{ours, loopback, loopback, follow}, {cold, loopback, loopback, followCold}},
		peers: []run{withTorrent(loopback, loopback), withKubo(loopback, loopback)},
		asks:  []ask{timeOf(viaTorrent, 0.5)},
	},
	{
		name: "loopback-large", about: "one file of 1 GiB of random bytes: loopback",
		site: random(1 << 30), limit: 5 * time.Minute, rounds: repeated,
		runs:  []run{{ours, loopback, loopback, follow}},
		peers: []run{withTorrent(loopback, loopback), withKubo(loopback, loopback)},
		asks:  []ask{timeOf(viaTorrent, 0.85)},
	},
	{
		name: "flash-crowd", about: "python-1: 16 mirrors of 10/10 Mbit/s at once, one seed of 10 Mbit/s, 50 ms RTT",
		rtt: 50 * time.Millisecond, site: siteNamed("python-1"), limit: 10 * time.Minute,
		runs: []run{
			{alone, same(1, rates{10, 10}), same(1, rates{10, 10}), follow},
			{ours, same(1, rates{10, 10}), same(16, rates{10, 10}), follow},
		},
		peers: []run{withTorrent(same(1, rates{10, 10}), same(16, rates{10, 10}))},
		asks: []ask{
			timeOf(alone, 2),
			{text: "seed sent, of the wire of one alone", unit: "×", figure: func(r results) (float64, float64) {
				return r.of(ours, func(m measure) float64 { return float64(m.SeedSent) }) / r.wire(alone), 2
			}},
		},
	},
	{
		name: "two-sites", about: "jdk-1 and python-1 at once: all machines 20 Mbit/s, 50 ms RTT, one seed of both",
		rtt: 50 * time.Millisecond, site: siteNamed("jdk-1"), other: siteNamed("python-1"), limit: 5 * time.Minute,
		runs: []run{
			{ours, same(1, rates{20, 20}), same(1, rates{20, 20}), followBoth},
			{twoMirrors, same(1, rates{20, 20}), same(2, rates{20, 20}), followBoth},
		},
		asks: []ask{share(ours), share(twoMirrors)},
	},
	{
		name: "pages", about: "pages of jdk-1 from the mirror's gateway while it fetches the site: 20 Mbit/s, 50 ms RTT, one seed",
		rtt: 50 * time.Millisecond, site: siteNamed("jdk-1"), limit: 5 * time.Minute,
		runs:  []run{{ours, same(1, rates{20, 20}), same(1, rates{20, 20}), readWith(polluxProgram)}},
		peers: []run{{viaKubo, same(1, rates{20, 20}), same(1, rates{20, 20}), readWith(kuboProgram)}},
		asks: []ask{{text: "p95 of pages that were not there yet, for 4 RTT", unit: "ms", figure: func(r results) (float64, float64) {
			return 1000 * r.of(ours, func(m measure) float64 { return m.PageP95 }), 4 * 50
		}}},
	},
	{
		name: "lost-seed", about: "jdk-1: one of three seeds killed or stopped in the middle; all machines 20 Mbit/s, 50 ms RTT",
		rtt: 50 * time.Millisecond, site: siteNamed("jdk-1"), limit: 5 * time.Minute, rounds: repeated,
		runs: []run{
			{undisturbed, same(3, rates{20, 20}), same(1, rates{20, 20}), follow},
			{killed, same(3, rates{20, 20}), same(1, rates{20, 20}), disturb(polluxProgram, undisturbed, syscall.SIGKILL)},
			{stopped, same(3, rates{20, 20}), same(1, rates{20, 20}), disturb(polluxProgram, undisturbed, syscall.SIGSTOP)},
		},
		peers: []run{
			withTorrent(same(3, rates{20, 20}), same(1, rates{20, 20})),
			{viaTorrent + ", " + stopped, same(3, rates{20, 20}), same(1, rates{20, 20}), disturb(torrentProgram, viaTorrent, syscall.SIGSTOP)},
		},
		asks: []ask{lost(killed), lost(stopped)},
	},
	beside(scenario{name: "hostile", about: "python-1", site: siteNamed("python-1")}, harms),
	beside(scenario{name: "hostile-update", about: "python-1 → python-2",
		site: siteNamed("python-1"), next: siteNamed("python-2")}, deltaHarms),
	{
		name: "memory", about: "all sites of the directory as one, at least 500 MB: 100 Mbit/s, 100 ms RTT, one seed",
		rtt: 100 * time.Millisecond, site: all(0, 500e6), limit: 5 * time.Minute,
		runs:  []run{{ours, fast, fast, follow}},
		peers: []run{withTorrent(fast, fast), withKubo(fast, fast)},
		asks: []ask{
			peak("seed", func(m measure) int64 { return m.SeedPeak }),
			peak("mirror", func(m measure) int64 { return m.MirrorPeak }),
		},
	},
}
