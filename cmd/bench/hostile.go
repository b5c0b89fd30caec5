//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// honestAlone is the run without hostile peers.
const honestAlone = "honest alone"

// A harm is what the hostile peers of a run do: all of them the same, or in turns each
// something else. They are plays of transport/exchange's TestPlay.
type harm struct {
	label string
	plays []string
}

// harms are done to a mirror that fetches a site.
var harms = []harm{
	{"wrong bytes", []string{"wrong leaf"}},
	{"zstd without end", []string{"zstd without end in the body, of many frames"}},
	{"2^63 bytes", []string{"frame of 2^63 bytes"}},
	{"unrequested", []string{"leaves that nobody asked for"}},
	{"a byte in 10 s", []string{"a byte in 10 s"}},
	{"a byte in 10 s, of nodes", []string{"a byte in 10 s, of nodes"}},
	{"a byte in 10 s, of leaves", []string{"a byte in 10 s, of leaves"}},
	{"a node now and then", []string{"a node now and then"}},
	{"endless index", []string{"nodes without end"}},
	{"no answer", []string{"no answer to anything"}},
	{"no answer to LIST and WANT", []string{"no answer to LIST and WANT"}},
	{"no answer to WANT", []string{"no answer to WANT"}},
	{"false HAVE", []string{"MISS"}},
	{"HAVE of nothing", []string{"HAVE of nothing"}},
	{"LATER", []string{"LATER"}},
	{"cut off", []string{"gone in a frame"}},
	{"cut off after each byte", []string{"cut off after each byte"}},
	{"cut off after each KiB", []string{"cut off after each KiB"}},
	{"PEERS that do not answer", []string{"PEERS that do not answer"}},
	{"a million WANT", []string{"a million WANT"}},
	{"streams that are not read", []string{"streams that are not read"}},
	{"the same WANT", []string{"the same WANT"}},
	{"the same WANT, and CANCEL", []string{"the same WANT, and CANCEL"}},
	{"the same LIST", []string{"the same LIST"}},
	{"the same OPEN", []string{"the same OPEN"}},
	{"the same GET", []string{"the same GET"}},
	{"90 % hostile", []string{
		"wrong leaf", "zstd without end in the body, of many frames", "a byte in 10 s",
		"a byte in 10 s, of nodes", "a byte in 10 s, of leaves", "a node now and then",
		"nodes without end", "no answer to anything", "no answer to LIST and WANT", "no answer to WANT",
		"MISS", "HAVE of nothing", "LATER", "gone in a frame", "frame of 2^63 bytes",
		"leaves that nobody asked for", "PEERS that do not answer", "BUSY for an hour",
	}},
}

// deltaHarms are done to one that holds the version before.
var deltaHarms = []harm{
	{"outside the base", []string{"a delta that reaches outside its base"}},
	{"another base", []string{"a delta against another base"}},
	{"another node", []string{"a delta that gives another node"}},
	{"a run of 2^63", []string{"a delta of a run of 2^63"}},
	{"too much", []string{"a delta that gives too much"}},
	{"a long search", []string{"a delta that searches for long"}},
	{"empty blocks", []string{"a delta of empty blocks"}},
}

// beside returns a scenario of a mirror that has two honest seeds, alone and beside 18
// hostile peers that do each of the harms.
func beside(s scenario, harms []harm) scenario {
	const (
		peers = 18 // 90 % of all
		most  = 3  // times as long as the honest alone
	)
	line := rates{20, 20}
	seeds, mirrors := same(3, line), same(1, line) // one of the three is the DHT
	s.about += ": two honest seeds, alone and beside 18 hostile peers: 20 Mbit/s, 50 ms RTT"
	s.rtt, s.limit, s.hostile = 50*time.Millisecond, 3*time.Minute, rates{100, 100}
	s.runs = []run{{honestAlone, seeds, mirrors, followBeside(0, nil)}}
	s.asks = append(s.asks, ask{text: "peak memory of any seed or mirror, in all of them", unit: "MB", figure: func(r results) (float64, float64) {
		most := 0.0
		for _, run := range s.runs {
			most = max(most, r.of(run.label, func(m measure) float64 { return float64(max(m.SeedPeak, m.MirrorPeak)) / 1e6 }))
		}
		return most, 200
	}})
	for _, h := range harms {
		s.runs = append(s.runs, run{h.label, seeds, mirrors, followBeside(peers, h.plays)})
		s.asks = append(s.asks, ask{text: h.label + ": time, of that of the " + honestAlone, unit: "×",
			figure: func(r results) (float64, float64) { return r.seconds(h.label) / r.seconds(honestAlone), most }})
	}
	return s
}

// hostileProgram is the tests of transport/exchange, which have the hostile peers.
func hostileProgram(scratch string) string { return filepath.Join(scratch, "hostile") }

func buildHostile(ctx context.Context, scratch string) error {
	build := exec.CommandContext(ctx, "go", "test", "-c", "-race=false", "-o", hostileProgram(scratch),
		"pollux/transport/exchange")
	if out, err := build.CombinedOutput(); err != nil {
		return fmt.Errorf("build the hostile peers: %w: %s", err, out)
	}
	return nil
}

// followBeside mirrors the site, or its next version where the first one is whole, from all
// seeds but the first, which is the DHT alone, while so many peers do harm. They are connected
// to the mirror before it begins, so it knows them before it finds the honest.
func followBeside(peers int, plays []string) func(context.Context, *world, results) (measure, error) {
	return func(ctx context.Context, w *world, _ results) (measure, error) {
		first := w.seeds[0]
		if err := first.start(ctx, nil); err != nil {
			return measure{}, err
		}
		for _, m := range w.seeds[1:] {
			if err := m.start(ctx, first, w.site); err != nil {
				return measure{}, err
			}
		}
		first.root = w.seeds[1].root
		if err := w.mirrors[0].start(ctx, first); err != nil {
			return measure{}, err
		}
		if w.next != "" {
			if err := w.settle(ctx); err != nil {
				return measure{}, err
			}
			if _, err := w.transfer(ctx, polluxProgram, nil); err != nil {
				return measure{}, err
			}
			for _, m := range w.seeds[1:] {
				if err := m.add(ctx, w.next); err != nil {
					return measure{}, err
				}
			}
			first.root = w.seeds[1].root
		}
		if peers > 0 {
			if err := w.play(ctx, peers, plays); err != nil {
				return measure{}, err
			}
		}
		if err := w.settle(ctx); err != nil {
			return measure{}, err
		}
		return w.transfer(ctx, polluxProgram, nil)
	}
}

// play starts the hostile peers.
func (w *world) play(ctx context.Context, peers int, plays []string) error {
	addrs := []string{w.mirrors[0].Addrs[0]}
	for _, m := range w.seeds[1:] {
		addrs = append(addrs, m.Addrs[0])
	}
	args := []string{"-play.site=" + w.site}
	if w.next != "" {
		args = []string{"-play.site=" + w.next, "-play.base=" + w.site}
	}
	var root string
	_, err := w.hostile.serve(ctx, func(line string) bool {
		_, err := fmt.Sscanf(line, "playing %s", &root)
		return err == nil
	}, hostileProgram(filepath.Dir(w.bin)), append(args, "-test.run=^TestPlay$", "-test.timeout=0",
		"-play.store="+filepath.Join(w.dir, "hostile"),
		"-play.at="+fmt.Sprintf("/ip4/%s/tcp/0", w.hostile.addr), "-play.peers="+strings.Join(addrs, ","),
		"-play.count="+strconv.Itoa(peers), "-play.kinds="+strings.Join(plays, ";"))...)
	if err == nil && root != w.seeds[0].root {
		err = errors.New("the hostile peers have another site")
	}
	return err
}
