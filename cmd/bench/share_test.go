//go:build linux

package main

import (
	"math"
	"testing"
)

func TestLeastShare(t *testing.T) {
	for _, tt := range []struct {
		name             string
		first, all, a, b int64
		want             float64
	}{
		{"even", 200, 300, 100, 200, 1},
		{"even to the end", 220, 220, 100, 100, 1},
		{"one after the other", 100, 300, 100, 200, 0},
		{"one gets three quarters", 133, 300, 100, 200, 0.5},
		{"the larger is whole first", 250, 300, 200, 100, 0.4},
	} {
		got, err := leastShare(tt.first, tt.all, tt.a, tt.b)
		if err != nil || math.Abs(got-tt.want) > 0.01 {
			t.Errorf("%s: %.2f, %v; want %.2f", tt.name, got, err, tt.want)
		}
	}
	if _, err := leastShare(100, 100, 100, 0); err == nil {
		t.Error("a site for which nothing came has a share")
	}
}
