package e2e

import (
	"context"
	"errors"
	"io"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc"
	guide "google.golang.org/grpc/examples/route_guide/routeguide"
	"google.golang.org/protobuf/testing/protocmp"
)

// routeGuide knows three places on one line and answers each kind of call.
type routeGuide struct {
	guide.UnimplementedRouteGuideServer
}

var places = []*guide.Feature{
	{Name: "one", Location: &guide.Point{Latitude: 10, Longitude: 1}},
	{Name: "two", Location: &guide.Point{Latitude: 20, Longitude: 1}},
	{Name: "three", Location: &guide.Point{Latitude: 30, Longitude: 1}},
}

func (routeGuide) GetFeature(_ context.Context, p *guide.Point) (*guide.Feature, error) {
	for _, place := range places {
		if place.Location.Latitude == p.Latitude && place.Location.Longitude == p.Longitude {
			return place, nil
		}
	}
	return &guide.Feature{Location: p}, nil
}

func (routeGuide) ListFeatures(r *guide.Rectangle, stream grpc.ServerStreamingServer[guide.Feature]) error {
	for _, place := range places {
		if place.Location.Latitude < r.Lo.Latitude || place.Location.Latitude > r.Hi.Latitude {
			continue
		}
		if err := stream.Send(place); err != nil {
			return err
		}
	}
	return nil
}

func (routeGuide) RecordRoute(stream grpc.ClientStreamingServer[guide.Point, guide.RouteSummary]) error {
	var summary guide.RouteSummary
	for {
		switch _, err := stream.Recv(); {
		case errors.Is(err, io.EOF):
			return stream.SendAndClose(&summary)
		case err != nil:
			return err
		}
		summary.PointCount++
	}
}

func (routeGuide) RouteChat(stream grpc.BidiStreamingServer[guide.RouteNote, guide.RouteNote]) error {
	for {
		note, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return err
		}
		if err := stream.Send(note); err != nil {
			return err
		}
	}
}

// The four kinds of call of gRPC's tutorial.
func TestRouteGuide(t *testing.T) {
	onEveryEngine(t, func(t *testing.T, w *world) {
		w.startInstance("guide", "1.0.0", 1, serving(func(s *grpc.Server) { guide.RegisterRouteGuideServer(s, routeGuide{}) }))
		client := guide.NewRouteGuideClient(w.startProxy().dial("guide"))

		t.Run("unary", func(t *testing.T) {
			got, err := client.GetFeature(within(t), places[1].Location)
			check(t, got, places[1], err)
		})
		t.Run("server streaming", func(t *testing.T) {
			stream, err := client.ListFeatures(within(t), &guide.Rectangle{Lo: places[1].Location, Hi: places[2].Location})
			if err != nil {
				t.Fatal(err)
			}
			for _, want := range places[1:] {
				got, err := stream.Recv()
				check(t, got, want, err)
			}
			if _, err := stream.Recv(); !errors.Is(err, io.EOF) {
				t.Errorf("after the last: %v, want EOF", err)
			}
		})
		t.Run("client streaming", func(t *testing.T) {
			stream, err := client.RecordRoute(within(t))
			if err != nil {
				t.Fatal(err)
			}
			for range 100 {
				if err := stream.Send(places[0].Location); err != nil {
					t.Fatal(err)
				}
			}
			got, err := stream.CloseAndRecv()
			check(t, got, &guide.RouteSummary{PointCount: 100}, err)
		})
		t.Run("bidirectional streaming", func(t *testing.T) {
			stream, err := client.RouteChat(within(t))
			if err != nil {
				t.Fatal(err)
			}
			for _, message := range []string{"first", "second", "third"} {
				note := &guide.RouteNote{Location: places[0].Location, Message: message}
				if err := stream.Send(note); err != nil {
					t.Fatal(err)
				}
				got, err := stream.Recv()
				check(t, got, note, err)
			}
			if err := stream.CloseSend(); err != nil {
				t.Fatal(err)
			}
			if _, err := stream.Recv(); !errors.Is(err, io.EOF) {
				t.Errorf("after the last: %v, want EOF", err)
			}
		})
	})
}

func check(t *testing.T, got, want any, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(got, want, protocmp.Transform()); diff != "" {
		t.Errorf("(-got +want):\n%s", diff)
	}
}
