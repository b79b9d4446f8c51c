"""Generated gRPC messages and stubs; their source is `protos/troupe/wire`."""
