from django.urls import path

from orders import views

urlpatterns = [
    path("", views.shop, name="shop"),
    path("live", views.live, name="live"),
    path("orders", views.place, name="place"),
    path("groups/<slug:group>/send-back", views.send_back, name="send-back"),
]
