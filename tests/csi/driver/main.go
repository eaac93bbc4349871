// A CSI driver for the tests: volumes and snapshots are directories of one node.
//
// It registers itself with the kubelet, so that nothing but the snapshot and provisioner sidecars stands beside it. A
// snapshot is a copy of the directory, ready when the copy is. It keeps no state but the directories.
package main

import (
	"context"
	"flag"
	"fmt"
	"log"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"sync"
	"syscall"

	csi "github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/timestamppb"
	"google.golang.org/protobuf/types/known/wrapperspb"
	registration "k8s.io/kubelet/pkg/apis/pluginregistration/v1"
)

const name = "directory.csi.hubsteward.io"

type driver struct {
	csi.UnimplementedIdentityServer
	csi.UnimplementedControllerServer
	csi.UnimplementedNodeServer
	registration.UnimplementedRegistrationServer
	mutex    sync.Mutex
	data     string
	node     string
	endpoint string
}

func (d *driver) volume(id string) string { return filepath.Join(d.data, "volumes", filepath.Base(id)) }
func (d *driver) snapshot(id string) string {
	return filepath.Join(d.data, "snapshots", filepath.Base(id))
}

// Identity.

func (d *driver) GetPluginInfo(context.Context, *csi.GetPluginInfoRequest) (*csi.GetPluginInfoResponse, error) {
	return &csi.GetPluginInfoResponse{Name: name, VendorVersion: "1"}, nil
}

func (d *driver) GetPluginCapabilities(context.Context, *csi.GetPluginCapabilitiesRequest) (*csi.GetPluginCapabilitiesResponse, error) {
	service := &csi.PluginCapability_Service{Type: csi.PluginCapability_Service_CONTROLLER_SERVICE}
	capability := &csi.PluginCapability{Type: &csi.PluginCapability_Service_{Service: service}}
	return &csi.GetPluginCapabilitiesResponse{Capabilities: []*csi.PluginCapability{capability}}, nil
}

func (d *driver) Probe(context.Context, *csi.ProbeRequest) (*csi.ProbeResponse, error) {
	return &csi.ProbeResponse{Ready: wrapperspb.Bool(true)}, nil
}

// Controller.

func (d *driver) ControllerGetCapabilities(context.Context, *csi.ControllerGetCapabilitiesRequest) (*csi.ControllerGetCapabilitiesResponse, error) {
	response := &csi.ControllerGetCapabilitiesResponse{}
	for _, kind := range []csi.ControllerServiceCapability_RPC_Type{
		csi.ControllerServiceCapability_RPC_CREATE_DELETE_VOLUME,
		csi.ControllerServiceCapability_RPC_CREATE_DELETE_SNAPSHOT,
	} {
		rpc := &csi.ControllerServiceCapability_RPC{Type: kind}
		response.Capabilities = append(response.Capabilities,
			&csi.ControllerServiceCapability{Type: &csi.ControllerServiceCapability_Rpc{Rpc: rpc}})
	}
	return response, nil
}

func (d *driver) CreateVolume(_ context.Context, request *csi.CreateVolumeRequest) (*csi.CreateVolumeResponse, error) {
	d.mutex.Lock()
	defer d.mutex.Unlock()
	source := ""
	if content := request.GetVolumeContentSource().GetSnapshot(); content != nil {
		source = d.snapshot(content.GetSnapshotId())
		if _, err := os.Stat(source); err != nil {
			return nil, status.Errorf(codes.NotFound, "there is no snapshot %s", content.GetSnapshotId())
		}
	} else if request.GetVolumeContentSource() != nil {
		return nil, status.Error(codes.InvalidArgument, "volumes are made empty or from snapshots")
	}
	if err := fill(d.volume(request.GetName()), source); err != nil {
		return nil, status.Error(codes.Internal, err.Error())
	}
	return &csi.CreateVolumeResponse{Volume: &csi.Volume{
		VolumeId:      request.GetName(),
		CapacityBytes: request.GetCapacityRange().GetRequiredBytes(),
		ContentSource: request.GetVolumeContentSource(),
	}}, nil
}

// fill makes a directory, empty or as a copy of another, all or nothing.
func fill(target, source string) error {
	if _, err := os.Stat(target); err == nil {
		return nil
	}
	half := target + ".half"
	if err := os.RemoveAll(half); err != nil {
		return err
	}
	if source == "" {
		if err := os.MkdirAll(half, 0o777); err != nil {
			return err
		}
		if err := os.Chmod(half, 0o777); err != nil {
			return err
		}
	} else if output, err := exec.Command("cp", "-a", source, half).CombinedOutput(); err != nil {
		return fmt.Errorf("cp: %s", output)
	}
	return os.Rename(half, target)
}

func (d *driver) DeleteVolume(_ context.Context, request *csi.DeleteVolumeRequest) (*csi.DeleteVolumeResponse, error) {
	if err := os.RemoveAll(d.volume(request.GetVolumeId())); err != nil {
		return nil, status.Error(codes.Internal, err.Error())
	}
	return &csi.DeleteVolumeResponse{}, nil
}

func (d *driver) ValidateVolumeCapabilities(_ context.Context, request *csi.ValidateVolumeCapabilitiesRequest) (*csi.ValidateVolumeCapabilitiesResponse, error) {
	confirmed := &csi.ValidateVolumeCapabilitiesResponse_Confirmed{VolumeCapabilities: request.GetVolumeCapabilities()}
	return &csi.ValidateVolumeCapabilitiesResponse{Confirmed: confirmed}, nil
}

func (d *driver) CreateSnapshot(_ context.Context, request *csi.CreateSnapshotRequest) (*csi.CreateSnapshotResponse, error) {
	d.mutex.Lock()
	defer d.mutex.Unlock()
	if _, err := os.Stat(d.volume(request.GetSourceVolumeId())); err != nil {
		return nil, status.Errorf(codes.NotFound, "there is no volume %s", request.GetSourceVolumeId())
	}
	if _, err := os.Stat(filepath.Join(d.data, "refuse-snapshots")); err == nil {
		return nil, status.Error(codes.ResourceExhausted, "no room for snapshots")
	}
	target := d.snapshot(request.GetName())
	if err := fill(target, d.volume(request.GetSourceVolumeId())); err != nil {
		return nil, status.Error(codes.Internal, err.Error())
	}
	info, err := os.Stat(target)
	if err != nil {
		return nil, status.Error(codes.Internal, err.Error())
	}
	return &csi.CreateSnapshotResponse{Snapshot: &csi.Snapshot{
		SnapshotId:     request.GetName(),
		SourceVolumeId: request.GetSourceVolumeId(),
		CreationTime:   timestamppb.New(info.ModTime()),
		SizeBytes:      1 << 20,
		ReadyToUse:     true,
	}}, nil
}

func (d *driver) DeleteSnapshot(_ context.Context, request *csi.DeleteSnapshotRequest) (*csi.DeleteSnapshotResponse, error) {
	if err := os.RemoveAll(d.snapshot(request.GetSnapshotId())); err != nil {
		return nil, status.Error(codes.Internal, err.Error())
	}
	return &csi.DeleteSnapshotResponse{}, nil
}

// Node.

func (d *driver) NodeGetCapabilities(context.Context, *csi.NodeGetCapabilitiesRequest) (*csi.NodeGetCapabilitiesResponse, error) {
	return &csi.NodeGetCapabilitiesResponse{}, nil
}

func (d *driver) NodeGetInfo(context.Context, *csi.NodeGetInfoRequest) (*csi.NodeGetInfoResponse, error) {
	return &csi.NodeGetInfoResponse{NodeId: d.node}, nil
}

func (d *driver) NodePublishVolume(_ context.Context, request *csi.NodePublishVolumeRequest) (*csi.NodePublishVolumeResponse, error) {
	source, target := d.volume(request.GetVolumeId()), request.GetTargetPath()
	if _, err := os.Stat(source); err != nil {
		return nil, status.Errorf(codes.NotFound, "there is no volume %s", request.GetVolumeId())
	}
	if err := os.MkdirAll(target, 0o750); err != nil {
		return nil, status.Error(codes.Internal, err.Error())
	}
	if isMounted(target) {
		return &csi.NodePublishVolumeResponse{}, nil
	}
	if err := syscall.Mount(source, target, "", syscall.MS_BIND, ""); err != nil {
		return nil, status.Errorf(codes.Internal, "mount: %v", err)
	}
	if request.GetReadonly() {
		if err := syscall.Mount("", target, "", syscall.MS_BIND|syscall.MS_REMOUNT|syscall.MS_RDONLY, ""); err != nil {
			return nil, status.Errorf(codes.Internal, "remount: %v", err)
		}
	}
	return &csi.NodePublishVolumeResponse{}, nil
}

func isMounted(path string) bool {
	return exec.Command("mountpoint", "-q", path).Run() == nil
}

func (d *driver) NodeUnpublishVolume(_ context.Context, request *csi.NodeUnpublishVolumeRequest) (*csi.NodeUnpublishVolumeResponse, error) {
	target := request.GetTargetPath()
	if isMounted(target) {
		if err := syscall.Unmount(target, 0); err != nil {
			return nil, status.Errorf(codes.Internal, "unmount: %v", err)
		}
	}
	if err := os.RemoveAll(target); err != nil {
		return nil, status.Error(codes.Internal, err.Error())
	}
	return &csi.NodeUnpublishVolumeResponse{}, nil
}

// Registration with the kubelet.

func (d *driver) GetInfo(context.Context, *registration.InfoRequest) (*registration.PluginInfo, error) {
	return &registration.PluginInfo{
		Type: registration.CSIPlugin, Name: name, Endpoint: d.endpoint, SupportedVersions: []string{"1.0.0"},
	}, nil
}

func (d *driver) NotifyRegistrationStatus(_ context.Context, said *registration.RegistrationStatus) (*registration.RegistrationStatusResponse, error) {
	if !said.PluginRegistered {
		log.Fatalf("the kubelet does not take this driver: %s", said.Error)
	}
	log.Print("registered with the kubelet")
	return &registration.RegistrationStatusResponse{}, nil
}

func serve(socket string, register func(*grpc.Server)) {
	if err := os.Remove(socket); err != nil && !os.IsNotExist(err) {
		log.Fatal(err)
	}
	listener, err := net.Listen("unix", socket)
	if err != nil {
		log.Fatal(err)
	}
	server := grpc.NewServer()
	register(server)
	go func() {
		if err := server.Serve(listener); err != nil {
			log.Fatal(err)
		}
	}()
}

func main() {
	d := &driver{}
	kubelet := flag.String("kubelet", "/var/lib/kubelet", "the kubelet's directory")
	flag.StringVar(&d.data, "data", "/data", "where volumes and snapshots are kept")
	flag.StringVar(&d.node, "node", os.Getenv("NODE_NAME"), "name of this node")
	flag.Parse()
	for _, directory := range []string{"volumes", "snapshots"} {
		if err := os.MkdirAll(filepath.Join(d.data, directory), 0o755); err != nil {
			log.Fatal(err)
		}
	}
	directory := filepath.Join(*kubelet, "plugins", name)
	if err := os.MkdirAll(directory, 0o755); err != nil {
		log.Fatal(err)
	}
	d.endpoint = filepath.Join(directory, "csi.sock")
	serve(d.endpoint, func(server *grpc.Server) {
		csi.RegisterIdentityServer(server, d)
		csi.RegisterControllerServer(server, d)
		csi.RegisterNodeServer(server, d)
	})
	serve(filepath.Join(*kubelet, "plugins_registry", name+"-reg.sock"), func(server *grpc.Server) {
		registration.RegisterRegistrationServer(server, d)
	})
	log.Printf("serving volumes of %s", d.data)
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, syscall.SIGTERM, syscall.SIGINT)
	<-stop
}
